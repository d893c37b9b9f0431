"""A DeepSpeed JSON beside a spec: what DeepSpeed does not know, what the spec says, what does nothing. No torch.

DeepSpeed passes over keys that it does not know at the top, and stops with a trace below. The keys are those of
DeepSpeed 0.16 to 0.19; a test holds them against the installed one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lensmith.errors import Problem
from lensmith.spec.run import StageSpec

_BOOL, _INT, _NUMBER, _TEXT, _ANY = "true or false", "a whole number", "a number", "text", ""

ZERO: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("contiguous_gradients", "reduce_scatter", "use_multi_rank_bucket_allreduce", "allgather_partitions"),
            *("overlap_comm", "load_from_fp32_weights", "elastic_checkpoint", "ignore_unused_parameters"),
            *("legacy_stage1", "round_robin_gradients", "zero_quantized_weights", "memory_efficient_linear"),
            *("zero_quantized_nontrainable_weights", "zero_quantized_gradients", "pipeline_loading_checkpoint"),
            *("override_module_apply", "log_trace_cache_warnings", "enable_sanity_checks", "compute_grad_norm"),
            *("save_muon_momentum_buffer_in_memory", "parameter_alignment"),
            *("stage3_gather_16bit_weights_on_model_save", "stage3_use_all_reduce_for_fetch_params"),
            *("stage3_allgather_sequential", "stage3_gather_fp16_weights_on_model_save"),
            *("gather_16bit_weights_on_model_save", "use_all_reduce_for_fetch_params", "allgather_sequential"),
        ),
        _BOOL,
    ),
    **dict.fromkeys(
        (
            *("stage", "reduce_bucket_size", "allgather_bucket_size", "sub_group_size", "zero_hpz_partition_size"),
            *("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_max_live_parameters"),
            *("stage3_model_persistence_threshold", "stage3_max_reuse_distance", "stage3_module_granularity_threshold"),
            *("prefetch_bucket_size", "param_persistence_threshold", "model_persistence_threshold"),
            *("max_live_parameters", "max_reuse_distance", "module_granularity_threshold"),
        ),
        _INT,
    ),
    **dict.fromkeys(("offload_param", "offload_optimizer", "zenflow", "leaf_module"), _ANY),
}
"""Keys of `zero_optimization` and what their values are."""

_PLACE = {"device": _TEXT, "nvme_path": _TEXT, "buffer_count": _INT, "pin_memory": _BOOL}
OFFLOAD_PARAM: Mapping[str, str] = {**_PLACE, "buffer_size": _INT, "max_in_cpu": _INT}
OFFLOAD_OPTIMIZER: Mapping[str, str] = {
    **_PLACE,
    **dict.fromkeys(("pipeline_read", "pipeline_write", "fast_init", "super_offload"), _BOOL),
    **dict.fromkeys(("ratio", "cpuadam_cores_perc"), _NUMBER),
}
BF16: Mapping[str, str] = dict.fromkeys(
    (
        *("enabled", "immediate_grad_update", "check_grad_overflow", "bf16_master_weights_and_grads"),
        "bf16_optimizer_states",
    ),
    _BOOL,
)
FP16: Mapping[str, str] = {
    **dict.fromkeys(("enabled", "auto_cast", "consecutive_hysteresis", "fp16_master_weights_and_grads"), _BOOL),
    **dict.fromkeys(("initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale"), _INT),
    "loss_scale": _NUMBER,
}

SECTIONS: Mapping[str, Mapping[str, str]] = {
    "zero_optimization": ZERO,
    "zero_optimization.offload_param": OFFLOAD_PARAM,
    "zero_optimization.offload_optimizer": OFFLOAD_OPTIMIZER,
    "bf16": BF16,
    "fp16": FP16,
}
TOP: Mapping[str, str] = {
    **dict.fromkeys(("zero_optimization", "bf16", "fp16", "comms_logger", "flops_profiler", "aio"), _ANY),
    **dict.fromkeys(("communication_data_type", "seq_parallel_communication_data_type", "log_level"), _TEXT),
    **dict.fromkeys(
        (
            *("prescale_gradients", "disable_allgather", "wall_clock_breakdown", "memory_breakdown", "dump_state"),
            *("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "disable_python_gc"),
        ),
        _BOOL,
    ),
    **dict.fromkeys(("gradient_predivide_factor",), _NUMBER),
    **dict.fromkeys(("steps_per_print",), _INT),
}
"""Keys at the top that do something here."""

_OWNED = {
    "train_batch_size": "batch.size",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "gradient_accumulation_steps": "batch",
    "gradient_clipping": "gradient_clipping",
    "optimizer": "optimizer",
    "scheduler": "schedule",
}
_USELESS = {
    "amp": "set precision",
    "bfloat16": "is an old name of bf16",
    "torch_autocast": "set precision",
    "data_types": "set precision",
    "activation_checkpointing": "set activation_checkpointing",
    "compile": "set compile",
    "wandb": "set logging.loggers",
    "tensorboard": "set logging.loggers",
    "comet": "set logging.loggers",
    "csv_monitor": "every step is in metrics/STAGE.jsonl",
    "dataloader_drop_last": "set data",
    "checkpoint": "set checkpoints",
    "managed_gradient_accumulation": "set batch",
    "gradient_allreduce_op": "the gradient is the mean over all rows of a step",
    **dict.fromkeys(
        [
            "autotuning",
            "compression_training",
            "curriculum_learning",
            "data_efficiency",
            "eigenvalue",
            "elasticity",
            "hybrid_engine",
            "inference",
            "nebula",
            "pipeline",
            "progressive_layer_drop",
            "sparse_attention",
            "sparse_gradients",
            "tensor_parallel",
            "expert_parallel",
            "weight_quantization",
            "sequence_parallel_size",
            "use_data_before_expert_parallelism",
            "quantize_training",
            "timers",
            "vocabulary_size",
        ],
        "nothing here uses it",
    ),
}
_OLD = {
    "cpu_offload": "offload_optimizer: {device: cpu}",
    "cpu_offload_params": "offload_param: {device: cpu}",
    "cpu_offload_param": "offload_param: {device: cpu}",
    "cpu_offload_use_pin_memory": "pin_memory inside offload_param and offload_optimizer",
}
_THREE_ALONE = {key for key in ZERO if key.startswith("stage3_")} | {"offload_param", "zero_hpz_partition_size"}


def json_problems(path: str, file: object, config: Mapping[str, Any], stage: StageSpec) -> Iterator[Problem]:
    """What is wrong with a DeepSpeed JSON for a stage.

    Args:
        path: of the file's name in the spec.
        file: its name, for messages.
        config: what it holds.
        stage: the stage.
    """
    name = path.removesuffix(".deepspeed.config")
    for key, value in config.items():
        if key in _OWNED:
            if value != "auto":
                where = f"{name}.{_OWNED[key]}"
                yield Problem(path, f"{file} sets {key}, which belongs to the spec; remove it there and set {where}")
        elif key in _USELESS:
            off = value in (None, False, "auto")
            if off or (isinstance(value, Mapping) and value.get("enabled") in (False, "auto")):
                continue
            yield Problem(path, f"{file} sets {key}, which does nothing here; remove it there ({_USELESS[key]})")
        else:
            yield from _entry(path, file, "", key, value, TOP)
    for section, known in SECTIONS.items():
        found: Any = config
        for step in section.split("."):
            found = found.get(step) if isinstance(found, Mapping) else None
        if found is None or found == "auto":
            continue
        if not isinstance(found, Mapping):
            yield Problem(path, f"{file}: {section} should be an object with keys; it is {found!r}")
            continue
        for key, value in found.items():
            yield from _entry(path, file, f"{section}.", key, value, known)
    yield from _contradictions(path, file, config, stage)


def _entry(path: str, file: object, section: str, key: str, value: Any, known: Mapping[str, str]) -> Iterator[Problem]:
    shown = f"{section}{key[:80]}"
    if key in _OLD and section == "zero_optimization.":
        yield Problem(path, f"{file} sets {shown}, which DeepSpeed has renamed; write {_OLD[key]}")
    elif key not in known:
        close = difflib.get_close_matches(key, known, n=1) if len(key) < 80 else []
        hint = f" Did you mean {section}{close[0]}?" if close else ""
        yield Problem(path, f"{file} sets {shown}, which DeepSpeed does not know, so that it would do nothing.{hint}")
    elif value not in ("auto", None) and not _is(value, known[key]):
        yield Problem(path, f"{file}: {shown} should be {known[key]}; it is {str(value)[:80]!r}")


def _is(value: Any, what: str) -> bool:
    truth = isinstance(value, bool)
    number = isinstance(value, (int, float)) and not truth and math.isfinite(value)
    return {
        _ANY: True,
        _BOOL: truth,
        _INT: number and float(value).is_integer() and value >= 0,
        _NUMBER: number,
        _TEXT: isinstance(value, str),
    }[what]


def _contradictions(path: str, file: object, config: Mapping[str, Any], stage: StageSpec) -> Iterator[Problem]:
    zero, own = config.get("zero_optimization"), stage.deepspeed.zero
    zero = zero if isinstance(zero, Mapping) else {}
    said = zero.get("stage", "auto")
    if said not in ("auto", None) and (isinstance(said, bool) or said != own):
        yield Problem(path, f"{file} says ZeRO stage {said}, the spec {own}; set deepspeed.zero: {said}")
    for precision in ("fp16", "bf16"):
        section = config.get(precision)
        if isinstance(section, Mapping) and section.get("enabled") is True and stage.precision != precision:
            text = f"{file} enables {precision}, the spec says {stage.precision}; set precision: {precision}"
            yield Problem(path, text)
    for key in sorted(_THREE_ALONE & zero.keys()):
        if own != 3 and zero[key] not in ("auto", None) and not _is_off(zero[key]):
            yield Problem(
                path, f"{file} sets zero_optimization.{key}, which is of ZeRO-3 alone, and this is ZeRO-{own}"
            )
    offload = zero.get("offload_optimizer")
    if own == 0 and isinstance(offload, Mapping) and not _is_off(offload):
        text = f"{file} offloads the optimiser, which ZeRO-0 does not do; set deepspeed.zero: 1, 2 or 3"
        yield Problem(path, text)
    for key in ("offload_param", "offload_optimizer"):
        section = zero.get(key)
        device = section.get("device", "none") if isinstance(section, Mapping) else "none"
        if device not in ("none", "cpu", "nvme", "auto"):
            yield Problem(path, f"{file}: zero_optimization.{key}.device should be cpu, nvme or none; it is {device!r}")
        if device == "nvme" and isinstance(section, Mapping) and not section.get("nvme_path"):
            yield Problem(path, f"{file}: zero_optimization.{key}.nvme_path is needed for offload to nvme")
    if config.get("zero_allow_untested_optimizer") is False or config.get("zero_force_ds_cpu_optimizer") is True:
        text = (
            f"{file} asks for DeepSpeed's own optimiser, and the spec's is used; remove zero_allow_untested_optimizer"
        )
        yield Problem(path, f"{text} and zero_force_ds_cpu_optimizer there")


def _is_off(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("device", "none") == "none"
