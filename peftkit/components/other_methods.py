"""Methods, optimizers and tools that people know and peftkit leaves out: what they are, and the closest method."""

from __future__ import annotations

from collections.abc import Mapping

_NO_LIBRARY = "{} is in neither peft nor AdapterHub's library; a plugin can add it"
_OPTIMIZERS = "peftkit has those of torch.optim and Adafactor only"
_OPTIMIZER = "{} is an optimizer of all weights, and " + _OPTIMIZERS
_NOT_A_METHOD = "{} is an optimizer and not a method, and " + _OPTIMIZERS
_CHANGES_BASE = "{} changes the frozen weights by data, so its adapter fits no other copy of the model"
_OBJECTIVE = "{} is an objective and not a method; a plugin can add it"
_QUANTIZATION = "{} quantizes a model and trains nothing; peftkit has the quantization of bitsandbytes only"

LEFT_OUT: Mapping[str, tuple[str, str]] = {
    "adam_mini": ("", _NOT_A_METHOD.format("Adam-mini")),
    "adalomo": ("full", _OPTIMIZER.format("AdaLomo")),
    "adamix": ("houlsby", "AdaMix trains several adapters of each layer and averages them; a plugin can add it"),
    "apollo": ("full", _OPTIMIZER.format("APOLLO")),
    "awq": ("qlora", _QUANTIZATION.format("AWQ")),
    "badam": ("full", f"BAdam is an optimizer that updates one block of layers at a time, and {_OPTIMIZERS}"),
    "bitdelta": ("full", "BitDelta compresses the weights that full fine-tuning has changed, and trains no model"),
    "child_tuning": ("full", "Child-Tuning masks gradients of full fine-tuning; a plugin can add it"),
    "corda": ("eva", _CHANGES_BASE.format("CorDA")),
    "delta_lora": ("lora", "Delta-LoRA also changes the frozen weights, by the change of the low-rank update"),
    "diff_pruning": ("shira", "Diff pruning trains a sparse difference of all weights; a plugin can add it"),
    "dpo": ("", _OBJECTIVE.format("DPO")),
    "dylora": ("lora", _NO_LIBRARY.format("DyLoRA")),
    "fish_mask": ("shira", "FISH Mask trains the weights with the largest Fisher information; a plugin can add it"),
    "galore": ("full", _OPTIMIZER.format("GaLore")),
    "gptq": ("qlora", _QUANTIZATION.format("GPTQ")),
    "hydralora": ("lora", "HydraLoRA has one first matrix and several second ones with a router; a plugin can add it"),
    "ladder_side_tuning": (
        "",
        "ladder side-tuning trains a small network beside the frozen model; a plugin can add it",
    ),
    "lion": ("", _NOT_A_METHOD.format("Lion")),
    "lisa": ("top_layers", "LISA trains other layers after every few steps; a plugin can add it"),
    "llama_pro": ("", "LLaMA Pro adds copies of layers to the model and trains these; a plugin can add it"),
    "loftq": ("qlora", "LoftQ starts from a quantization of its own, and peftkit has that of bitsandbytes only"),
    "lomo": ("full", _OPTIMIZER.format("LOMO")),
    "longlora": ("lora", "LongLoRA changes the model's attention"),
    "lora_fa": ("lora", f"LoRA-FA is an optimizer of peft, and {_OPTIMIZERS}"),
    "lora_ga": ("eva", _CHANGES_BASE.format("LoRA-GA")),
    "lora_pro": ("lora", "LoRA-Pro changes the gradients of LoRA to follow full fine-tuning; a plugin can add it"),
    "lorahub": ("lora", "LoraHub combines LoRA adapters of other tasks, and trains none"),
    "lt_sft": ("shira", "LT-SFT trains the weights that change most in full fine-tuning; a plugin can add it"),
    "mezo": ("full", _OPTIMIZER.format("MeZO")),
    "milora": ("pissa", _NO_LIBRARY.format("MiLoRA, LoRA that starts from the smallest singular values,")),
    "mixture_of_depths": ("", "mixture of depths lets tokens skip layers, which changes the model"),
    "mixlora": ("lora", _NO_LIBRARY.format("MixLoRA, a mixture of LoRA experts with a router,")),
    "mora": ("lora", _NO_LIBRARY.format("MoRA")),
    "mos": ("vblora", _NO_LIBRARY.format("MoS, LoRA whose matrices are made of shared shards,")),
    "muon": (
        "",
        'Muon is an optimizer and not a method: set train.optimizer = "Muon"; all trained weights must be matrices',
    ),
    "neftune": ("", "NEFTune adds noise to embeddings in training, with any method; peftkit does not have it"),
    "nola": ("vera", _NO_LIBRARY.format("NOLA, LoRA of random matrices with trained factors,")),
    "orpo": ("", _OBJECTIVE.format("ORPO")),
    "q_galore": ("full", _OPTIMIZER.format("Q-GaLore")),
    "qalora": ("qlora", "QA-LoRA needs weights quantized by GPTQ, and peftkit has bitsandbytes only"),
    "qdora": ("dora", 'QDoRA is DoRA on quantized weights: set model.quantization = "4bit" too'),
    "relora": ("lora", "ReLoRA merges its updates into the weights during training; a plugin can add it"),
    "s_lora": ("lora", "S-LoRA serves LoRA adapters, and trains none"),
    "sophia": ("", _NOT_A_METHOD.format("Sophia")),
    "spectrum": (
        "top_layers",
        "Spectrum trains the layers with the highest signal-to-noise ratio; a plugin can add it",
    ),
    "spot": ("prompt_tuning", "SPoT is prompt tuning that starts from the prompt of another task"),
    "ssf": ("ia3", "SSF scales and shifts the outputs of layers; a plugin can add it"),
    "tied_lora": ("vera", _NO_LIBRARY.format("Tied-LoRA, whose matrices are shared by layers,")),
    "unsloth": ("", "Unsloth is a library that trains known methods faster, and not a method"),
    "velora": ("lora", "VeLoRA compresses the activations that are stored for the backward pass; a plugin can add it"),
}
"""What peftkit leaves out: the closest method that it has, or an empty text, and why."""
