"""Decides how environment variables and Accelerate's configuration file may affect a run: never unrecorded.

Every variable that the libraries read has one treatment in ``VARIABLES``, and every key of Accelerate's configuration
file has one in ``CONFIGURATION_KEYS``; ``scripts/environment_names.py --check`` fails for any other name.

===============  =========================================================================
``recorded``     takes effect; its value is recorded in ``environment.json``
``ignored``      removed during the run, because the recipe decides what it would set
``rejected``     an error before the run starts: it would change numbers and cannot be undone
``irrelevant``   affects neither training nor scores
===============  =========================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal, NamedTuple

from peftkit.errors import InputError

Treatment = Literal["recorded", "ignored", "rejected", "irrelevant"]
OFF = frozenset({"", "0", "no", "false", "off", "none", "strict"})
"""Lower-case values of a rejected variable that have no effect."""


BOOLEANS = frozenset(
    (
        *("ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"),
        *("ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "FORK_LAUNCHED"),
    )
)
"""Recorded variables and those of a launch that Accelerate reads as booleans."""
BOOLEAN_VALUES = frozenset(("y", "yes", "t", "true", "on", "1", "n", "no", "f", "false", "off", "0"))


class Rule(NamedTuple):
    """Treatment of a group of variables; ``names`` are patterns separated by spaces."""

    treatment: Treatment
    reason: str
    names: str


LAUNCH_OPTIONS = Rule(
    "recorded",
    "the launch, which must match the recipe",
    "ACCELERATE_USE_CPU ACCELERATE_USE_DEEPSPEED ACCELERATE_USE_FSDP ACCELERATE_TORCH_DEVICE "
    "ACCELERATE_CPU_AFFINITY ACCELERATE_DEBUG_MODE",
)
FRAMEWORKS = Rule(
    "ignored",
    "peftkit trains with torch, which transformers 4 would hide",
    "USE_TORCH USE_TF USE_JAX USE_FLAX FORCE_TF_AVAILABLE",
)
PROCESSES = Rule(
    "irrelevant",
    "the launch, whose number of processes is recorded",
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE NODE_RANK NPROC MASTER_ADDR MASTER_PORT FORK_LAUNCHED "
    "TORCHELASTIC_* PMI_* MPI_* MV2_* OMPI_* SMDATAPARALLEL_LOCAL_RANK ACCELERATE_DEBUG_RDV_FILE",
)

VARIABLES = (
    Rule(
        "ignored",
        "train.gradient_accumulation_steps decides; Accelerate would divide every gradient by it",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    ),
    Rule("ignored", "train.mixed_precision decides", "ACCELERATE_MIXED_PRECISION ACCELERATE_DOWNCAST_BF16"),
    Rule("ignored", "train.max_grad_norm decides", "ACCELERATE_GRADIENT_CLIPPING"),
    Rule(
        "ignored",
        "models are not compiled: that would change numbers, and compile time would count as training",
        "ACCELERATE_DYNAMO_*",
    ),
    Rule("ignored", "no recipe trains in fp8", "ACCELERATE_FP8_*"),
    Rule(
        "ignored",
        "train.deepspeed decides",
        "ACCELERATE_DEEPSPEED_* ACCELERATE_CONFIG_DS_FIELDS",
    ),
    Rule("recorded", "the layers that FSDP shards one by one", "FSDP_TRANSFORMER_CLS_TO_WRAP"),
    Rule("ignored", "train.fsdp decides, with the settings that peftkit is tested with", "FSDP_*"),
    Rule(
        "rejected",
        "peftkit trains with DeepSpeed, FSDP2 or data parallelism only",
        "ACCELERATE_USE_MEGATRON_LM ACCELERATE_USE_PARALLELISM_CONFIG ACCELERATE_USE_SAGEMAKER ACCELERATE_USE_IPEX",
    ),
    Rule(
        "ignored",
        "belongs to a launch that is not supported",
        "MEGATRON_LM_* PARALLELISM_CONFIG_* ACCELERATE_ALLOW_CP_STANDALONE ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE",
    ),
    Rule(
        "ignored",
        "models are loaded and placed as the recipe says",
        "ACCELERATE_BYPASS_DEVICE_MAP ACCELERATE_INIT_INCLUDE_BUFFERS TRANSFORMERS_SDPA_FORCE_GQA "
        "HF_ENABLE_PARALLEL_LOADING HF_PARALLEL_LOADING_WORKERS",
    ),
    FRAMEWORKS,
    LAUNCH_OPTIONS,
    Rule(
        "rejected",
        "float32 matrix products would be computed with lower precision",
        "NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE ONEDNN_DEFAULT_FPMATH_MODE DNNL_DEFAULT_FPMATH_MODE "
        "XLA_USE_BF16 XLA_DOWNCAST_BF16 PYTORCH_MPS_FAST_MATH ROCBLAS_INTERNAL_FP16_ALT_IMPL",
    ),
    Rule(
        "recorded",
        "determines the order of sums, and so the last bits",
        "OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS MKL_CBWR MKL_DYNAMIC OMP_DYNAMIC MKL_ENABLE_INSTRUCTIONS "
        "MKL_DEBUG_CPU_TYPE ONEDNN_MAX_CPU_ISA DNNL_MAX_CPU_ISA ATEN_CPU_CAPABILITY CUBLAS_WORKSPACE_CONFIG "
        "CUBLASLT_WORKSPACE_SIZE TORCH_BLAS_PREFER_* TORCH_LINALG_PREFER_* TORCH_CUDNN_* DISABLE_ADDMM_CUDA_LT "
        "PYTORCH_TUNABLEOP_* FLASH_ATTENTION_DETERMINISTIC HCCL_DETERMINISTIC NPU_FA2_SPARSE_MODE NCCL_ALGO NCCL_PROTO "
        "NCCL_GRAPH_MIXING_SUPPORT USE_HUB_KERNELS TRANSFORMERS_DISABLE_DEEPGEMM_LINEAR PYTORCH_ENABLE_MPS_FALLBACK "
        "PYTORCH_MPS_PREFER_METAL",
    ),
    Rule(
        "recorded",
        "affects speed or memory",
        "CUDA_LAUNCH_BLOCKING ASCEND_LAUNCH_BLOCKING PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF "
        "PYTORCH_NO_CUDA_MEMORY_CACHING HF_DATASETS_IN_MEMORY_MAX_SIZE TORCHDYNAMO_* TORCH_COMPILE* KMP_AFFINITY "
        "OMP_PROC_BIND OMP_PLACES GOMP_CPU_AFFINITY LD_PRELOAD MALLOC_CONF MALLOC_ARENA_MAX KMP_BLOCKTIME "
        "NCCL_P2P_DISABLE NCCL_IB_DISABLE CCL_WORKER_COUNT PT_HPU_LAZY_MODE GLOO_SOCKET_IFNAME",
    ),
    Rule(
        "recorded",
        "selects the devices",
        "CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER *_VISIBLE_DEVICES HABANA_VISIBLE_MODULES NEURON_RT_VISIBLE_CORES "
        "ZE_AFFINITY_MASK DS_ACCELERATOR DEEPSPEED_USE_HPU PJRT_DEVICE TPU_NAME USE_TORCH_XLA",
    ),
    PROCESSES,
    Rule(
        "irrelevant",
        "locations of files; what was read is recorded as digests and commits",
        "HF_HOME HF_ENDPOINT HF_HUB_* HUGGINGFACE_* HF_*_CACHE HF_XET_* HF_INFERENCE_ENDPOINT HF_DATASETS_DOWNLOADED_* "
        "HF_DATASETS_EXTRACTED_* HF_DATASETS_OFFLINE TRANSFORMERS_OFFLINE TRANSFORMERS_CACHE PYTORCH_*_CACHE XDG_* "
        "TORCH_HOME TMP TEMP TMPDIR PYTHONPATH PEFTKIT_*",
    ),
    Rule(
        "irrelevant",
        "accounts of the hub and of clouds",
        "HF_TOKEN HF_TOKEN_PATH HUGGING_FACE_HUB_TOKEN HF_OIDC_* HF_DEVICE_CODE_* OAUTH_* OPENID_* ACTIONS_* AWS_* "
        "WEBHOOK_SECRET SPACE_* GITHUB_ACTIONS VERTEX_PRODUCT ECS_* SAGEMAKER_* SM_* TRAINING_JOB_ARN DATABRICKS_*",
    ),
    Rule(
        "irrelevant",
        "logging and display",
        "ACCELERATE_LOG_LEVEL ACCELERATE_ENABLE_RICH *_VERBOSITY TRANSFORMERS_NO_ADVISORY_WARNINGS "
        "HF_DATASETS_DISABLE_PROGRESS_BARS HF_DATASETS_STACK_* HF_DEBUG TQDM_* NO_COLOR SHELL EDITOR VISUAL HF_EDITOR "
        "*_CONFIG_DIR VSCODE_PID TF_CPP_MIN_LOG_LEVEL DISABLE_TELEMETRY DO_NOT_TRACK NETWORK_DEBUG_REPORT* "
        "HF_UPDATE_DOWNLOAD_COUNTS GIT_LFS_PROGRESS CI BRANCH TRANSFORMERS_IS_CI FX_DEBUG_MODE",
    ),
    Rule(
        "irrelevant",
        "trackers other than wandb and TensorBoard, and transformers' Trainer: not used",
        "WANDB_* CLEARML_* COMET_* MLFLOW_* HF_MLFLOW_* HF_DAGSHUB_* HF_DVCLIVE_* SWANLAB_* TRACKIO_* TENSORBOARD_* "
        "DISABLE_MLFLOW_INTEGRATION DISABLE_KUBEFLOW_INTEGRATION KUBEFLOW_* RAY_SCOPE",
    ),
    Rule(
        "irrelevant",
        "code that peftkit does not use: other frameworks, conversion of pickles, compilation of single layers",
        "TF_USE_LEGACY_KERAS DISABLE_SAFETENSORS_CONVERSION "
        "TRUST_REMOTE_CODE CC CXX CUDA_HOME CUDA_PATH EAGER_IMPORT TOKENIZERS_PARALLELISM PYTORCH_*_BASED_*_CHECK "
        "TRANSFORMERS_DISABLE_TORCH_CHECK systemdrive",
    ),
    Rule(
        "irrelevant",
        "names built at run time from those above or from command-line arguments",
        "\\* ACCELERATE_\\*",
    ),
)

CONFIGURATION_KEYS: Mapping[str, tuple[Treatment, str]] = {
    **dict.fromkeys(
        ("mixed_precision", "downcast_bf16", "dynamo_config", "fp8_config", "deepspeed_config", "fsdp_config"),
        ("ignored", "the recipe decides; the launcher turns it into variables that are ignored"),
    ),
    **dict.fromkeys(("megatron_lm_config", "parallelism_config"), ("rejected", "sets a rejected variable")),
    **dict.fromkeys(
        (
            "num_processes",
            "num_machines",
            "use_cpu",
            "distributed_type",
            "gpu_ids",
            "enable_cpu_affinity",
            "compute_environment",
            "mpirun_config",
            "machine_rank",
            "debug",
        ),
        ("recorded", "the launch"),
    ),
    **dict.fromkeys(
        ("main_process_ip", "main_process_port", "main_training_function", "rdzv_backend", "same_network"),
        ("irrelevant", "rendezvous of the processes"),
    ),
    **dict.fromkeys(
        (
            "tpu_env",
            "tpu_name",
            "tpu_use_cluster",
            "tpu_use_sudo",
            "tpu_vm",
            "tpu_zone",
            "command_file",
            "commands",
            "additional_args",
            "base_job_name",
            "ec2_instance_type",
            "iam_role_name",
            "image_uri",
            "profile",
            "py_version",
            "pytorch_version",
            "region",
            "sagemaker_inputs_file",
            "sagemaker_metrics_file",
            "transformers_version",
            "ipex_config",
        ),
        ("irrelevant", "remote machines"),
    ),
}
"""Treatment and reason for each key of Accelerate's configuration file, which only its launcher reads."""

_saved: list[dict[str, str]] = []
"""Stack of the values of recorded and ignored variables, before each run that is under way."""


@cache
def rule_for(name: str) -> Rule | None:
    """Return the rule of a variable; None for an unknown one.

    Args:
        name: The name of the variable, in which ``*`` is a literal character.
    """
    for rule in VARIABLES:
        for pattern in rule.names.split():
            literal = pattern.replace("\\", "")
            if name == literal or (literal == pattern and "*" not in name and fnmatchcase(name, pattern)):
                return rule
    return None


def check_environment_variables(variables: Mapping[str, str]) -> None:
    """Reject an environment that would change a run's results in ways its recipe does not show.

    Raises:
        InputError: A variable is set that changes numbers, or to a value that Accelerate cannot read.
    """
    for name, value in sorted(variables.items()):
        rule = rule_for(name)
        if name in BOOLEANS and value.strip() and value.strip().lower() not in BOOLEAN_VALUES:
            raise InputError(f"{name}: must be true or false, not {value!r}; unset it")
        if rule is not None and rule.treatment == "rejected" and value.strip().lower() not in OFF:
            raise InputError(f"environment variable {name}={value} is not supported: {rule.reason}; run: unset {name}")


def read_world_size(variables: Mapping[str, str] = os.environ) -> int:
    """Return the number of processes that were launched, as ``WORLD_SIZE`` says; 1 without a launcher.

    Args:
        variables: The environment variables.

    Raises:
        InputError: It or ``LOCAL_RANK`` is not a number, or set without a launcher.
    """
    local_rank = variables.get("LOCAL_RANK", "").strip()
    if local_rank and not local_rank.removeprefix("-").isdecimal():
        raise InputError(f"LOCAL_RANK: must be the number of a process, not {local_rank!r}; unset it")
    if local_rank and local_rank != "-1":
        _check_launcher("LOCAL_RANK", local_rank, variables)
    value = variables.get("WORLD_SIZE", "").strip()
    if not value:
        return 1
    if not value.isdecimal() or not int(value):
        raise InputError(f"WORLD_SIZE: must be a number of processes, not {value!r}; unset it")
    if int(value) > 1:
        _check_launcher("WORLD_SIZE", value, variables)
    return int(value)


def is_main_process(variables: Mapping[str, str] = os.environ) -> bool:
    """Return whether a process is the first of its launch, or no launcher started it, whatever ``RANK`` is left over.

    Args:
        variables: The environment variables.
    """
    return variables.get("WORLD_SIZE", "").strip() in ("", "0", "1") or variables.get("RANK", "0") == "0"


def _check_launcher(name: str, value: str, variables: Mapping[str, str]) -> None:
    """Raise if a variable of a launcher is set without those that every launcher sets."""
    absent = [other for other in ("RANK", "WORLD_SIZE") if not variables.get(other)]
    if absent:
        raise InputError(
            f"{name}: it is {value}, but no launcher started this process, as {absent[0]} is not set; unset {name} to "
            "train in one process"
        )


def remove_framework_variables(variables: MutableMapping[str, str] = os.environ) -> None:
    """Remove the variables that choose frameworks, before transformers is imported and reads them.

    Args:
        variables: The environment variables.
    """
    for name in FRAMEWORKS.names.split():
        variables.pop(name, None)


def ignore_environment_variables(
    variables: MutableMapping[str, str] = os.environ, *, single_process: bool = False
) -> None:
    """Remove the ignored variables until ``restore_environment_variables`` is called.

    Unknown ``ACCELERATE_*`` variables are removed as well, because a newer version of Accelerate may read them, and so
    are empty options of a launch, which Accelerate cannot read.

    Args:
        variables: The environment variables.
        single_process: Whether to remove those of a launch too.

    Raises:
        InputError: A variable is set that changes numbers, or to a value that Accelerate cannot read.
    """
    check_environment_variables({k: v for k, v in variables.items() if not (single_process and _is_of_launch(k))})
    _saved.append({k: v for k, v in variables.items() if _is_managed(k) or (single_process and _is_of_launch(k))})
    for name, value in _saved[-1].items():
        is_removed = _is_of_launch(name) and (single_process or not value.strip())
        if is_removed or not _is_recorded(name):
            del variables[name]


def restore_environment_variables(variables: MutableMapping[str, str] = os.environ) -> None:
    """Undo ``ignore_environment_variables``, and what libraries have set since."""
    if not _saved:
        return
    before = _saved.pop()
    for name in [*variables]:
        if _is_managed(name) and name not in before:
            del variables[name]
    variables.update(before)


def ignored_environment_variables() -> dict[str, str]:
    """Return the variables that are set but ignored, with their values."""
    return {
        name: value
        for name, value in sorted((_saved or [{}])[-1].items())
        if _is_managed(name) and not _is_recorded(name)
    }


def environment_notice() -> str:
    """Return a notice of the ignored variables that a user may expect to take effect; empty if there are none."""
    names = [
        f"{k}={v}" for k, v in ignored_environment_variables().items() if v.strip().lower() not in OFF | {"default"}
    ]
    return f"ignored environment variables (the recipe decides): {', '.join(names)}" if names else ""


def recorded_environment_variables(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that are set and take effect, with their values."""
    return {name: value for name, value in sorted(variables.items()) if _is_recorded(name)}


def _is_managed(name: str) -> bool:
    rule = rule_for(name)
    return name.startswith("ACCELERATE_") if rule is None else rule.treatment in ("recorded", "ignored")


def _is_of_launch(name: str) -> bool:
    return rule_for(name) in (LAUNCH_OPTIONS, PROCESSES)


def _is_recorded(name: str) -> bool:
    rule = rule_for(name)
    return rule is not None and rule.treatment == "recorded"
