"""What environment variables and Accelerate's configuration file may do to a run: nothing that its files do not show.

Every variable that the libraries read has one treatment in ``VARIABLES``, and every key of Accelerate's configuration
file one in ``CONFIGURATION``; ``scripts/environment_names.py --check`` fails on names that are in neither.

===============  ===========================================================================
``recorded``     it acts, and its value is in ``environment.json``
``neutralised``  it is removed while the run lasts: the recipe decides what it would set
``refused``      the run ends before it begins: it would change numbers, and cannot be undone
``irrelevant``   neither training nor scores depend on it
===============  ===========================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal, NamedTuple

from peftkit.errors import InputError

Treatment = Literal["recorded", "neutralised", "refused", "irrelevant"]
OFF = frozenset({"", "0", "no", "false", "off", "none", "strict"})
"""Values, in lower case, that leave a refused variable without effect."""


class Rule(NamedTuple):
    """How a group of variables is treated; ``names`` are patterns, separated by blanks."""

    treatment: Treatment
    reason: str
    names: str


VARIABLES = (
    Rule(
        "neutralised",
        "train.gradient_accumulation_steps decides; Accelerate would divide every gradient by it",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    ),
    Rule("neutralised", "train.mixed_precision decides", "ACCELERATE_MIXED_PRECISION ACCELERATE_DOWNCAST_BF16"),
    Rule("neutralised", "train.max_grad_norm decides", "ACCELERATE_GRADIENT_CLIPPING"),
    Rule(
        "neutralised",
        "nothing is compiled: it would change numbers, and its time would count as training",
        "ACCELERATE_DYNAMO_*",
    ),
    Rule("neutralised", "no recipe trains in fp8", "ACCELERATE_FP8_*"),
    Rule(
        "neutralised",
        "train.deepspeed decides",
        "ACCELERATE_DEEPSPEED_* ACCELERATE_CONFIG_DS_FIELDS",
    ),
    Rule("recorded", "the layers that FSDP shards one by one", "FSDP_TRANSFORMER_CLS_TO_WRAP"),
    Rule("neutralised", "train.fsdp decides, with the settings that peftkit is tested with", "FSDP_*"),
    Rule(
        "refused",
        "peftkit trains with DeepSpeed, FSDP2 or data parallelism only",
        "ACCELERATE_USE_MEGATRON_LM ACCELERATE_USE_PARALLELISM_CONFIG ACCELERATE_USE_SAGEMAKER ACCELERATE_USE_IPEX",
    ),
    Rule(
        "neutralised",
        "belongs to a launch that is refused",
        "MEGATRON_LM_* PARALLELISM_CONFIG_* ACCELERATE_ALLOW_CP_STANDALONE ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE",
    ),
    Rule(
        "neutralised",
        "models are loaded and placed as the recipe says",
        "ACCELERATE_BYPASS_DEVICE_MAP ACCELERATE_INIT_INCLUDE_BUFFERS TRANSFORMERS_SDPA_FORCE_GQA "
        "HF_ENABLE_PARALLEL_LOADING HF_PARALLEL_LOADING_WORKERS",
    ),
    Rule(
        "recorded",
        "the launch; it has to agree with the recipe",
        "ACCELERATE_USE_CPU ACCELERATE_USE_DEEPSPEED ACCELERATE_USE_FSDP ACCELERATE_TORCH_DEVICE "
        "ACCELERATE_CPU_AFFINITY ACCELERATE_DEBUG_MODE",
    ),
    Rule(
        "refused",
        "products in float32 would be computed in fewer bits",
        "NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE ONEDNN_DEFAULT_FPMATH_MODE DNNL_DEFAULT_FPMATH_MODE "
        "XLA_USE_BF16 XLA_DOWNCAST_BF16 PYTORCH_MPS_FAST_MATH ROCBLAS_INTERNAL_FP16_ALT_IMPL",
    ),
    Rule(
        "recorded",
        "decides the order of sums, and so the last bits",
        "OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS MKL_CBWR MKL_DYNAMIC OMP_DYNAMIC MKL_ENABLE_INSTRUCTIONS "
        "MKL_DEBUG_CPU_TYPE ONEDNN_MAX_CPU_ISA DNNL_MAX_CPU_ISA ATEN_CPU_CAPABILITY CUBLAS_WORKSPACE_CONFIG "
        "CUBLASLT_WORKSPACE_SIZE TORCH_BLAS_PREFER_* TORCH_LINALG_PREFER_* TORCH_CUDNN_* DISABLE_ADDMM_CUDA_LT "
        "PYTORCH_TUNABLEOP_* FLASH_ATTENTION_DETERMINISTIC HCCL_DETERMINISTIC NPU_FA2_SPARSE_MODE NCCL_ALGO NCCL_PROTO "
        "NCCL_GRAPH_MIXING_SUPPORT USE_HUB_KERNELS TRANSFORMERS_DISABLE_DEEPGEMM_LINEAR PYTORCH_ENABLE_MPS_FALLBACK "
        "PYTORCH_MPS_PREFER_METAL",
    ),
    Rule(
        "recorded",
        "changes seconds or memory",
        "CUDA_LAUNCH_BLOCKING ASCEND_LAUNCH_BLOCKING PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF "
        "PYTORCH_NO_CUDA_MEMORY_CACHING HF_DATASETS_IN_MEMORY_MAX_SIZE TORCHDYNAMO_* TORCH_COMPILE* KMP_AFFINITY "
        "OMP_PROC_BIND OMP_PLACES GOMP_CPU_AFFINITY LD_PRELOAD MALLOC_CONF MALLOC_ARENA_MAX KMP_BLOCKTIME "
        "NCCL_P2P_DISABLE NCCL_IB_DISABLE CCL_WORKER_COUNT PT_HPU_LAZY_MODE GLOO_SOCKET_IFNAME",
    ),
    Rule(
        "recorded",
        "chooses the devices",
        "CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER *_VISIBLE_DEVICES HABANA_VISIBLE_MODULES NEURON_RT_VISIBLE_CORES "
        "ZE_AFFINITY_MASK DS_ACCELERATOR DEEPSPEED_USE_HPU PJRT_DEVICE TPU_NAME USE_TORCH_XLA",
    ),
    Rule(
        "irrelevant",
        "the launch, of which the number of processes is recorded",
        "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE NODE_RANK NPROC MASTER_ADDR MASTER_PORT FORK_LAUNCHED "
        "TORCHELASTIC_* PMI_* MPI_* MV2_* OMPI_* SMDATAPARALLEL_LOCAL_RANK ACCELERATE_DEBUG_RDV_FILE",
    ),
    Rule(
        "irrelevant",
        "where files lie, or come from; digests and commits say what was read",
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
        "what is shown and logged, and where",
        "ACCELERATE_LOG_LEVEL ACCELERATE_ENABLE_RICH *_VERBOSITY TRANSFORMERS_NO_ADVISORY_WARNINGS "
        "HF_DATASETS_DISABLE_PROGRESS_BARS HF_DATASETS_STACK_* HF_DEBUG TQDM_* NO_COLOR SHELL EDITOR VISUAL HF_EDITOR "
        "*_CONFIG_DIR VSCODE_PID TF_CPP_MIN_LOG_LEVEL DISABLE_TELEMETRY DO_NOT_TRACK NETWORK_DEBUG_REPORT* "
        "HF_UPDATE_DOWNLOAD_COUNTS GIT_LFS_PROGRESS CI BRANCH TRANSFORMERS_IS_CI FX_DEBUG_MODE",
    ),
    Rule(
        "irrelevant",
        "trackers other than wandb and TensorBoard, or transformers' Trainer, which are not used",
        "WANDB_* CLEARML_* COMET_* MLFLOW_* HF_MLFLOW_* HF_DAGSHUB_* HF_DVCLIVE_* SWANLAB_* TRACKIO_* TENSORBOARD_* "
        "DISABLE_MLFLOW_INTEGRATION DISABLE_KUBEFLOW_INTEGRATION KUBEFLOW_* RAY_SCOPE",
    ),
    Rule(
        "irrelevant",
        "code that peftkit does not use: other frameworks, conversion of pickles, compilers of single layers",
        "USE_TF USE_JAX USE_FLAX USE_TORCH FORCE_TF_AVAILABLE TF_USE_LEGACY_KERAS DISABLE_SAFETENSORS_CONVERSION "
        "TRUST_REMOTE_CODE CC CXX CUDA_HOME CUDA_PATH EAGER_IMPORT TOKENIZERS_PARALLELISM PYTORCH_*_BASED_*_CHECK "
        "TRANSFORMERS_DISABLE_TORCH_CHECK systemdrive",
    ),
    Rule(
        "irrelevant",
        "names that are put together from those above, or from a command's arguments",
        "\\* ACCELERATE_\\*",
    ),
)

CONFIGURATION: Mapping[str, tuple[Treatment, str]] = {
    **dict.fromkeys(
        ("mixed_precision", "downcast_bf16", "dynamo_config", "fp8_config", "deepspeed_config", "fsdp_config"),
        ("neutralised", "the recipe decides; what the launcher makes of it are variables that are neutralised"),
    ),
    **dict.fromkeys(("megatron_lm_config", "parallelism_config"), ("refused", "the launcher sets a refused variable")),
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
        ("irrelevant", "how processes meet"),
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
        ("irrelevant", "other machines than one's own"),
    ),
}
"""The keys of Accelerate's configuration file, of which only its launcher knows."""

_earlier: list[dict[str, str]] = []
"""What the variables that may act were, the newest last."""


@cache
def rule_for(name: str) -> Rule | None:
    """The rule of a variable; None for one that no library was known to read.

    Args:
        name: of the variable; ``*`` in it stands for itself.
    """
    for rule in VARIABLES:
        for pattern in rule.names.split():
            literal = pattern.replace("\\", "")
            if name == literal or (literal == pattern and "*" not in name and fnmatchcase(name, pattern)):
                return rule
    return None


def check_variables(variables: Mapping[str, str]) -> None:
    """Refuses an environment in which a run would not measure what its recipe says.

    Raises:
        InputError: a variable is set that changes numbers.
    """
    for name, value in sorted(variables.items()):
        rule = rule_for(name)
        if rule is not None and rule.treatment == "refused" and value.strip().lower() not in OFF:
            raise InputError(
                f"the environment variable {name}={value} is refused: {rule.reason}; allowed: unset, or 0; remedy: "
                f"unset {name}"
            )


def set_variables_aside(variables: MutableMapping[str, str] = os.environ) -> None:
    """Removes the variables that may not act, until ``restore_variables`` puts them back.

    Accelerate's variables that no rule knows are removed too: a newer version may read them.

    Raises:
        InputError: a variable is set that changes numbers.
    """
    check_variables(variables)
    _earlier.append({name: value for name, value in variables.items() if _may_act(name)})
    for name in _earlier[-1]:
        if not _is_recorded(name):
            del variables[name]


def restore_variables(variables: MutableMapping[str, str] = os.environ) -> None:
    """Makes the variables that may act what they were before ``set_variables_aside``; libraries set some themselves."""
    if not _earlier:
        return
    before = _earlier.pop()
    for name in [*variables]:
        if _may_act(name) and name not in before:
            del variables[name]
    variables.update(before)


def variables_set_aside() -> dict[str, str]:
    """The variables that are set and have no effect, with their values."""
    return {name: value for name, value in sorted((_earlier or [{}])[-1].items()) if not _is_recorded(name)}


def variables_notice() -> str:
    """The variables that somebody may expect to act and that do not; empty where there are none."""
    names = [f"{k}={v}" for k, v in variables_set_aside().items() if v.strip().lower() not in OFF | {"default"}]
    return f"without effect, since the recipe decides: {', '.join(names)}" if names else ""


def recorded_variables(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that are set and act, with their values."""
    return {name: value for name, value in sorted(variables.items()) if _is_recorded(name)}


def _may_act(name: str) -> bool:
    rule = rule_for(name)
    return name.startswith("ACCELERATE_") if rule is None else rule.treatment in ("recorded", "neutralised")


def _is_recorded(name: str) -> bool:
    rule = rule_for(name)
    return rule is not None and rule.treatment == "recorded"
