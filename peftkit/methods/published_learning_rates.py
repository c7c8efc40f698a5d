"""The learning-rate search space and the published learning rates of each method of peft.

Each rate is from the file that its source names, as of August 2026. Experiments of peft's method comparison without a
learning rate use the default of that comparison.
"""

from __future__ import annotations

from collections.abc import Mapping

from peftkit.components.search_space import (
    MATRICES,
    PROMPTS,
    ROTATIONS,
    SCALES,
    VECTORS,
    WEIGHTS,
    PublishedRate,
    SearchSpace,
)

COMPARISON = "method_comparison/MetaMathQA"
"""The folder of the method comparison in peft's repository."""


def by_peft(path: str, *rates: float) -> PublishedRate:
    """Return rates from a file of peft's repository.

    Args:
        path: The path of the file in the repository.
        rates: The learning rates, in ascending order.
    """
    return PublishedRate(rates, f"huggingface/peft (2026): {path}")


def compared(experiment: str, *rates: float) -> PublishedRate:
    """Return the rates of an experiment of peft's method comparison.

    Args:
        experiment: The folder of the experiment.
        rates: The learning rates, in ascending order.
    """
    return by_peft(f"{COMPARISON}/experiments/{experiment}/training_params.json", *rates)


def compared_by_default(experiment: str) -> PublishedRate:
    """Return the default rate of peft's method comparison, which the experiment uses."""
    return by_peft(f"{COMPARISON}/default_training_params.json, for experiments/{experiment}", 1e-4)


LAYER_NORM = PublishedRate((3e-4,), "Liu et al. (2022): configs/layernorm.json in r-three/t-few", "Adafactor")
LAYER_NORM_BY_PEFT = by_peft("examples/causal_language_modeling/peft_ln_tuning_clm.ipynb", 5e-2)

PEFT_LEARNING_RATES: Mapping[str, tuple[SearchSpace, tuple[PublishedRate, ...]]] = {
    "adalora": (
        MATRICES,
        (
            PublishedRate(
                (5e-4, 1e-3),
                "Zhang et al. (2023): NLG_QA/scripts/run_bart_xsum.sh and run_debertav3_squadv2.sh in "
                "QingruZhang/AdaLoRA",
            ),
        ),
    ),
    "adamss": (
        MATRICES,
        (by_peft("examples/adamss_finetuning/glue_adamss_asa_example.py", 5e-4, 1e-3, 5e-3, 1e-2),),
    ),
    "adaption_prompt": (
        VECTORS,
        (
            PublishedRate(
                (9e-3,),
                "Zhang et al. (2023), for 256 rows a step: alpaca_finetuning_v1/finetuning.sh in "
                "OpenGVLab/LLaMA-Adapter",
            ),
            compared("adaptionprompt/llama-3.2-3B-lr_0.0005", 5e-4),
            compared("adaptionprompt/llama-3.2-3B-lr_5e-3", 5e-3),
        ),
    ),
    "beft": (VECTORS, (by_peft("examples/beft_finetuning/beft_finetuning.py", 8e-3),)),
    "boft": (
        ROTATIONS,
        (
            by_peft("examples/boft_controlnet/train_controlnet.sh", 1e-5),
            by_peft("examples/boft_dreambooth/train_dreambooth.sh", 3e-5),
            compared_by_default("boft/llama-3.2-3B-default"),
        ),
    ),
    "c3a": (
        SCALES,
        (by_peft("examples/sequence_classification/C3A.ipynb", 0.3), compared("c3a/llama-3.2-3B-default", 0.3)),
    ),
    "cartridge": (
        VECTORS,
        (
            PublishedRate((2e-2,), "Eyuboglu et al. (2025): README.md in HazyResearch/cartridges", "Adam"),
            by_peft("examples/cartridge_self_study/train_distill.py", 1e-3),
        ),
    ),
    "cpt": (VECTORS, (by_peft("examples/cpt_finetuning/cpt_train_and_inference.ipynb", 1e-4),)),
    "deft": (MATRICES, (by_peft("examples/deft_finetuning/README.md", 3e-4),)),
    "delora": (
        MATRICES,
        (by_peft("examples/delora_finetuning/README.md", 3e-3), compared("delora/llama-3.2-3B-rank32", 1e-3)),
    ),
    "fourierft": (
        SCALES,
        (
            PublishedRate(
                (0.043, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.12),
                "Gao et al. (2024): experiments/GLUE/*-best.sh in Chaos96/fourierft",
            ),
        ),
    ),
    "frod": (
        SCALES,
        (
            by_peft("examples/frod_finetuning/frod_text_classification.py", 2e-3, 2e-2),
            compared("frod/llama-3.2-3B-sparse0.02-lr_0.001", 1e-3),
        ),
    ),
    "glora": (
        MATRICES,
        (by_peft("examples/glora_finetuning/README.md", 3e-4), compared("glora/llama-3.2-3B-vector-paths", 5e-4)),
    ),
    "gralora": (MATRICES, (compared("gralora/llama-3.2-3B-rank32", 2e-4),)),
    "hira": (
        MATRICES,
        (by_peft("examples/hira_finetuning/README.md", 3e-4), compared("hira/llama-3.2-3B-rank32-lr4.5e-3", 4.5e-3)),
    ),
    "hra": (ROTATIONS, (by_peft("examples/hra_dreambooth/train_dreambooth.sh", 5e-3),)),
    "ia3": (
        SCALES,
        (
            PublishedRate((3e-3,), "Liu et al. (2022): configs/ia3.json in r-three/t-few", "Adafactor"),
            compared("ia3/llama-3.2-3B-lr_0.001", 1e-3),
            compared("ia3/llama-3.2-3B-all-attn-5k-lr0.005", 5e-3),
        ),
    ),
    "lily": (MATRICES, (by_peft("examples/lily_finetuning/lily_finetuning.py", 1e-4),)),
    "ln_tuning": (VECTORS, (LAYER_NORM, LAYER_NORM_BY_PEFT, compared_by_default("ln_tuning/llama-3.2-3B-default"))),
    "loha": (
        MATRICES,
        (
            PublishedRate(
                (2e-4,),
                "Yeh et al. (2024): example_configs/training_configs/kohya/loha_config.toml in KohakuBlueleaf/LyCORIS",
            ),
            compared_by_default("loha/llama-3.2-3B-rank32"),
        ),
    ),
    "lokr": (
        MATRICES,
        (
            PublishedRate(
                (2e-4,),
                "Yeh et al. (2024): example_configs/training_configs/kohya/lokr_config.toml in KohakuBlueleaf/LyCORIS",
            ),
            compared("lokr/llama-3.2-3B-rank32-factor4-lr0.003", 3e-3),
        ),
    ),
    "lora": (
        MATRICES,
        (
            PublishedRate(
                (2e-4, 5e-4),
                "Hu et al. (2021): examples/NLG/README.md and examples/NLU/roberta_base_mnli.sh in microsoft/LoRA",
            ),
            PublishedRate((3e-3,), "Liu et al. (2022): configs/lora.json in r-three/t-few", "Adafactor"),
            compared_by_default("lora/llama-3.2-3B-rank32"),
        ),
    ),
    "miss": (
        MATRICES,
        (by_peft("examples/miss_finetuning/README.md", 2e-5), compared_by_default("miss/llama-3.2-3B-default")),
    ),
    "multitask_prompt_tuning": (
        VECTORS,
        (by_peft("examples/conditional_generation/multitask_prompt_tuning.ipynb", 1e-4),),
    ),
    "oft": (ROTATIONS, (compared_by_default("oft/llama-3.2-3B-rank32"),)),
    "osf": (
        WEIGHTS,
        (
            by_peft("docs/source/package_reference/osf.md", 1e-5, 1e-4),
            compared("osf/llama-3.2-3B-rank128", 5e-5),
        ),
    ),
    "p_tuning": (
        MATRICES,
        (
            PublishedRate((1e-4,), "Liu et al. (2021): PT-Fewshot/scripts/rte_pt_few_shot.sh in THUDM/P-tuning"),
            by_peft("examples/sequence_classification/P_Tuning.ipynb", 1e-3),
        ),
    ),
    "peanut": (MATRICES, (by_peft("examples/peanut_finetuning/peanut_finetuning.py", 1e-4),)),
    "poly": (
        MATRICES,
        (
            PublishedRate((1e-3,), "Ponti et al. (2023): tests/configs/t0/poly_lora.json in microsoft/mttl", ""),
            by_peft("examples/poly/peft_poly_seq2seq_with_generate.ipynb", 5e-5),
        ),
    ),
    "prefix_tuning": (
        MATRICES,
        (
            PublishedRate(
                (5e-5,), "Li and Liang (2021), reparameterized by a network: README.md in XiangLi1999/PrefixTuning"
            ),
            PublishedRate(
                (1e-2,),
                "Liu et al. (2022), reparameterized by a network: configs/prefix_tuning.json in r-three/t-few",
                "Adafactor",
            ),
            compared("prefixtuning/llama-3.2-3B-lr_0.001", 1e-3),
            compared("prefixtuning/llama-3.2-3B-lr_0.005_zero_init", 5e-3),
            compared("prefixtuning/llama-3.2-3B-tokens50-init_prefix-lr_0.005", 5e-3),
        ),
    ),
    "prompt_tuning": (
        PROMPTS,
        (
            PublishedRate(
                (0.3,),
                "Lester et al. (2021): prompt_tuning/configs/runs/prompt_finetune.gin in google-research/prompt-tuning",
                "Adafactor",
            ),
            by_peft("examples/causal_language_modeling/peft_prompt_tuning_clm.ipynb", 3e-2),
            compared("prompt_tuning/llama-3.2-3B-lr_0.001", 1e-3),
        ),
    ),
    "psoft": (ROTATIONS, (by_peft("examples/psoft_finetuning/README.md", 5e-4),)),
    "pvera": (SCALES, (compared("pvera/llama-3.2-3B-default", 3e-3),)),
    "randlora": (
        VECTORS,
        (
            by_peft("examples/randlora_finetuning/README.md", 3e-4),
            compared_by_default("randlora/llama-3.2-3B-default"),
        ),
    ),
    "road": (
        SCALES,
        (by_peft("examples/road_finetuning/README.md", 1e-3), compared("road/llama-3.2-3B-lr_0.001", 1e-3)),
    ),
    "shadow": (
        MATRICES,
        (
            PublishedRate(
                (2e-4, 1e-3, 3e-3),
                "ShadowPEFT (2026, arXiv:2604.19254): experiment/best_script.md in ShadowLLM/shadow-peft",
                "",
            ),
        ),
    ),
    "shira": (
        MATRICES,
        (
            by_peft("examples/shira_finetuning/shira_finetuning.py", 3e-4),
            compared("shira/llama-3.2-3B-lr_0.0003-random_seed_42", 3e-4),
        ),
    ),
    "supertuning": (MATRICES, (by_peft("examples/supertuning_finetuning/README.md", 1e-4),)),
    "tinylora": (SCALES, (compared("tinylora/llama-3.2-3B-default", 1e-3),)),
    "trainable_tokens": (PROMPTS, (compared("trainable_tokens/llama-3.2-3B-sos+eos", 0.2),)),
    "unilora": (VECTORS, (by_peft("examples/unilora_finetuning/README.md", 1e-4),)),
    "vblora": (
        SCALES,
        (
            by_peft("docs/source/package_reference/vblora.md", 1e-3, 1e-2),
            compared("vblora/llama-3.2-3B-bank1024-lr5e4", 5e-4),
        ),
    ),
    "vera": (
        SCALES,
        (
            by_peft("examples/sequence_classification/VeRA.ipynb", 2e-2),
            compared("vera/llama-3.2-3B-default", 1e-3),
        ),
    ),
    "waveft": (
        VECTORS,
        (
            by_peft("examples/waveft_finetuning/waveft_finetuning.py", 3e-4),
            compared_by_default("waveft/llama-3.2-3B-n_frequency-5000"),
        ),
    ),
    "xlora": (
        MATRICES,
        (
            by_peft(
                f"{COMPARISON}/default_training_params.json; neither peft nor the authors give one for X-LoRA", 1e-4
            ),
        ),
    ),
}
"""By the method's name in ``peft.PeftType``, in lower case."""
