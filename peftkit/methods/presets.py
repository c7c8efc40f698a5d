"""Presets of the built-in methods: variants of LoRA by their own names, and other names of methods."""

from __future__ import annotations

from collections.abc import Sequence

from peftkit.components import Preset, PublishedRate
from peftkit.methods.peft_schema import configurations
from peftkit.methods.published_learning_rates import by_peft, compared, compared_by_default

PRESETS = (
    Preset(
        name="dora",
        method="lora",
        summary="LoRA that trains the magnitude of each column of a weight apart from its direction",
        paper="DoRA, Liu et al., 2024",
        fixed={"use_dora": True},
        published_rates=(
            PublishedRate((1e-4,), "Liu et al. (2024): commonsense_reasoning/llama3_8B_DoRA.sh in NVlabs/DoRA"),
            by_peft("examples/dora_finetuning/README.md", 3e-4),
            compared_by_default("lora/llama-3.2-3B-rank32-dora"),
        ),
    ),
    Preset(
        name="rslora",
        method="lora",
        summary="LoRA that scales its updates by alpha/√r, so that high ranks learn as fast as low ones",
        paper="rsLoRA, Kalajdzievski, 2023",
        fixed={"use_rslora": True},
        published_rates=(compared_by_default("lora/llama-3.2-3B-rank64-rslora"),),
    ),
    Preset(
        name="pissa",
        method="lora",
        summary="LoRA that starts from the largest singular directions of each weight, and freezes the rest",
        paper="PiSSA, Meng et al., 2024",
        fixed={"init_lora_weights": "pissa"},
        published_rates=(PublishedRate((2e-5,), "Meng et al. (2024): scripts/run_pissa.sh in GraphPKU/PiSSA"),),
    ),
    Preset(
        name="olora",
        method="lora",
        summary="LoRA that starts from the QR decomposition of each weight",
        paper="OLoRA, Büyükakyüz, 2024",
        fixed={"init_lora_weights": "olora"},
        published_rates=(by_peft("examples/olora_finetuning/olora_finetuning.py", 3e-4),),
    ),
    Preset(
        name="eva",
        method="lora",
        summary="LoRA that starts from the main directions of activations, and gives ranks to layers by them",
        paper="EVA, Paischer et al., 2024",
        fixed={"init_lora_weights": "eva"},
        defaults={"eva_config": {"rho": 2.0}},
        published_rates=(PublishedRate((5e-4,), "Paischer et al. (2024): bash/run_train.sh in ml-jku/EVA"),),
    ),
    Preset(
        name="mica",
        method="lora",
        summary="LoRA whose second matrix is frozen at the smallest singular directions of the weight",
        paper="MiCA, Rüdiger and Raschka, 2026",
        fixed={"init_lora_weights": "mica"},
        published_rates=(compared_by_default("lora/llama-3.2-3B-rank32-mica"),),
    ),
    Preset(
        name="lora_plus",
        method="lora",
        summary="LoRA whose second matrix has a higher learning rate than the first",
        paper="LoRA+, Hayou et al., 2024",
        defaults={"loraplus_lr_ratio": 16.0},
        forbidden={"loraplus_lr_ratio": 1.0},
        published_rates=(
            PublishedRate(
                (1e-4,),
                "Hayou et al. (2024), of the first matrix, with a ratio of 20: glue/scripts/run_roberta_lora.sh in "
                "nikhil-ghosh-berkeley/loraplus",
            ),
        ),
    ),
    Preset(
        name="kasa",
        method="lora",
        summary="LoRA with trained singular values, on weights without their smallest ones",
        paper="KaSA, Wang et al., 2024",
        defaults={"kasa_config": {"beta": 1e-4, "gamma": 1e-3}},
        published_rates=(compared_by_default("lora/llama-3.2-3B-rank32-kasa"),),
    ),
    Preset(
        name="monteclora",
        method="lora",
        summary="LoRA with random samples around its first matrix during training",
        paper="MonteCLoRA, Sengupta et al., 2024",
        defaults={"monteclora_config": {}},
        published_rates=(
            by_peft("examples/monteclora_finetuning/sequence_classification_finetune_monteclora.py", 2e-4),
        ),
    ),
    Preset(
        name="lora_fa",
        method="lora",
        summary="LoRA whose first matrix is frozen, so that its inputs need not be stored for the backward pass",
        paper="LoRA-FA, Zhang et al., 2023",
        fixed={"use_lorafa": True},
        published_rates=(compared("lora/llama-3.2-3B-rank32-lorafa", 1e-4),),
    ),
    Preset(
        name="riemannian_lora",
        method="lora",
        summary="LoRA whose matrices precondition the gradients of each other",
        paper="Riemannian preconditioned LoRA, Zhang and Pilanci, 2024",
        defaults={"riemannian_reg": 1e-2},
        published_rates=(compared("lora/llama-3.2-3B-rank32-riemannian", 1e-4),),
    ),
    Preset(
        name="velora",
        method="lora",
        summary="LoRA that stores compressed inputs of its first matrix for the backward pass",
        paper="VeLoRA, Miles et al., 2024",
        defaults={"velora_config": {}},
        published_rates=(compared_by_default("lora/llama-3.2-3B-rank10-target-mlp-velora"),),
    ),
    Preset(
        name="loftq",
        method="lora",
        summary="LoRA on weights rounded to 4 bits that starts closest to the original ones; needs a GPU",
        paper="LoftQ, Li et al., 2023",
        fixed={"init_lora_weights": "loftq"},
        defaults={"loftq_config": {"loftq_bits": 4, "loftq_iter": 1}},
        published_rates=(by_peft("examples/loftq_finetuning/README.md", 1e-4),),
    ),
    Preset(
        name="qlora",
        method="lora",
        summary="LoRA of all linear layers, on frozen weights of 4 bits; needs a GPU",
        paper="QLoRA, Dettmers et al., 2023",
        defaults={"target_modules": "all-linear"},
        recipe={"model.quantization": "4bit"},
        published_rates=(
            PublishedRate(
                (1e-4, 2e-4),
                "Dettmers et al. (2023): scripts/finetune_guanaco_65b.sh and finetune_guanaco_7b.sh in artidoro/qlora",
            ),
        ),
    ),
    Preset(
        name="linear_probe",
        method="head_only",
        summary="The output layer only, on a frozen model",
        paper="linear classifier probes, Alain and Bengio, 2016",
    ),
    Preset(
        name="llama_adapter",
        method="adaption_prompt",
        summary="Prompts with a gate that starts at zero, in the attention of the upper layers",
        paper="LLaMA-Adapter, Zhang et al., 2023",
    ),
    Preset(
        name="p_tuning_v2",
        method="prefix_tuning",
        summary="Prefix tuning whose keys and values are trained without a network",
        paper="P-Tuning v2, Liu et al., 2021",
        fixed={"prefix_projection": False},
        published_rates=(
            PublishedRate(
                (5e-3, 1e-2),
                "Liu et al. (2021): run_script/run_rte_roberta.sh and run_rte_bert.sh in THUDM/P-tuning-v2",
            ),
        ),
    ),
)


def presets() -> Sequence[Preset]:
    """Return the presets, without those whose name the installed peft gives to a method."""
    return [preset for preset in PRESETS if preset.name not in configurations()]
