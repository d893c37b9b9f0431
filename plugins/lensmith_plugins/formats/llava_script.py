"""The arguments of LLaVA's trainer (`llava/train/train.py`) as a spec. No torch.

Defaults are those of its argument classes and of transformers' TrainingArguments (4.37), as its scripts rely on them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensmith import LensmithError
from lensmith.io.json import JsonError, read_object
from lensmith_plugins.formats import llava_config

_OWN = {"vision_tower", "mm_projector_type", "mm_vision_select_layer", "image_folder", "version", "tune_mm_mlp_adapter"}
_VERSIONS = {"v1": "vicuna_v1", "plain": "plain", "v0": "vicuna_v1", "v0.5": "vicuna_v1", "v0_plain": "plain"}
_DECAYS = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}
_OPTIMISERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_bnb_8bit": "adamw_8bit",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw",
    "paged_adamw_32bit": "paged_adamw",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "sgd": "sgd",
    "adafactor": "adafactor",
}
_NEEDLESS = {"lazy_preprocess", "is_multimodal", "logging_steps", "disable_tqdm", "bits", "use_cpu", "save_strategy"}
"""Arguments without which the spec says the same, where they have the value that scripts give them."""


class _Taken:
    """The arguments, which notes what is looked at."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values, self.used, self.notes = values, set[str](), list[str]()

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self.values:
            return default
        self.used.add(name)
        return self.values[name]

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name, default)
        return value if isinstance(value, bool) else str(value).lower() in ("true", "1", "yes")

    def number(self, name: str, default: float) -> float:
        value = self.get(name, default)
        try:
            return value if isinstance(value, (int, float)) and not isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            self.notes.append(f"{name} {value!r} is no number; {default:g} is taken")
            return default


def spec_of(values: Mapping[str, Any], gpus: int) -> dict[str, Any] | None:
    """`ImporterSpec.migrated` for LLaVA's trainer; None for another one's arguments."""
    if "model_name_or_path" not in values or len(_OWN & values.keys()) < 2:
        return None
    taken = _Taken(values)
    model = _model(taken)
    first = taken.flag("tune_mm_mlp_adapter")
    name = "pretrain" if first else "finetune"
    spec: dict[str, Any] = {"model": model, "stages": {name: _stage(taken, first, gpus)}}
    if (output := taken.get("output_dir")) is not None:
        spec["output"] = str(output)
    if not first and taken.get("pretrain_mm_mlp_adapter") is not None:
        model["connector"]["checkpoint"] = str(values["pretrain_mm_mlp_adapter"])
    for name in _NEEDLESS & values.keys():
        if name != "bits" or str(values[name]) == "16":
            taken.used.add(name)
    if str(values.get("report_to", "none")).lower() in ("none", "[]"):
        taken.used.add("report_to")
    if not (taken.flag("mm_use_im_start_end") or taken.flag("mm_use_im_patch_token")):
        taken.used |= {"mm_use_im_start_end", "mm_use_im_patch_token"} & values.keys()
    else:
        taken.used -= {"mm_use_im_start_end", "mm_use_im_patch_token"}
    return {"spec": spec, "used": taken.used, "notes": taken.notes}


def _model(taken: _Taken) -> dict[str, Any]:
    base = str(taken.get("model_name_or_path"))
    plain = base.lower()
    family = "vicuna" if "vicuna" in plain else "llama" if "llama" in plain or "llava" in plain else "hf_causal"
    config: dict[str, Any] = {}
    for key in ("mm_projector_type", "image_aspect_ratio", "image_grid_pinpoints", "mm_patch_merge_type"):
        if (value := taken.get(key)) is not None:
            config[key] = value
    for key in ("mm_vision_select_layer", "mm_vision_select_feature"):
        if (value := taken.get(key)) is not None:
            config[key] = value
    config.setdefault("mm_vision_select_layer", -1)  # the default of LLaVA's argument class
    tower = str(taken.get("vision_tower", "openai/clip-vit-large-patch14"))
    try:
        encoder = llava_config.encoder(config, tower, None, "the script")
        if "siglip" in tower.lower():
            encoder["name"] = "siglip"
            del encoder["cls_token"]
        model: dict[str, Any] = {
            "vision_encoder": {k: v for k, v in encoder.items() if v is not False},
            "image_splitter": llava_config.splitter(config, "the script"),
            "connector": llava_config.connector(config, "the script"),
        }
    except LensmithError as error:
        raise LensmithError(f"{error}; it cannot be carried over") from error
    model["language_model"] = {"name": family, "checkpoint": base}
    version = str(taken.get("version", "v0"))
    template = _VERSIONS.get(version, version)
    if template != "plain":
        model["conversation"] = template
    elif family == "vicuna":
        model["conversation"] = "vicuna_v1"
    return model


def _stage(taken: _Taken, first: bool, gpus: int) -> dict[str, Any]:
    version = str(taken.get("version", "v0"))
    micro = int(taken.number("per_device_train_batch_size", 8))
    accumulation = int(taken.number("gradient_accumulation_steps", 1))
    stage: dict[str, Any] = {"tuner": _tuner(taken, first)}
    if _VERSIONS.get(version) == "plain":
        stage["conversation"] = "plain"
    stage["data"] = _data(taken)
    stage["lr"] = taken.number("learning_rate", 5e-5)
    steps = int(taken.number("max_steps", -1))
    if steps > 0:
        stage["max_steps"] = steps
    else:
        stage["epochs"] = taken.number("num_train_epochs", 3.0)
    stage["batch"] = {"size": micro * accumulation * gpus, "micro": micro}
    stage["optimizer"] = _optimizer(taken)
    stage["schedule"] = _schedule(taken)
    stage["loss"] = "micro_batches"
    if (clipping := taken.number("max_grad_norm", 0.0)) > 0:
        stage["gradient_clipping"] = clipping
    stage["precision"] = "bf16" if taken.flag("bf16") else "fp16" if taken.flag("fp16") else "fp32"
    if taken.flag("tf32"):
        stage["tf32"] = True
    if taken.flag("gradient_checkpointing"):
        stage["activation_checkpointing"] = True
    stage |= _engine(taken, stage["precision"])
    if (every := int(taken.number("save_steps", 500))) > 0 and taken.get("save_strategy", "steps") == "steps":
        stage["checkpoints"] = {"every": every, "keep": max(1, int(taken.number("save_total_limit", 2)))}
    stage["seed"] = int(taken.number("seed", 42))
    return stage


def _tuner(taken: _Taken, first: bool) -> dict[str, Any]:
    if first:
        return {"name": "frozen"}
    rate = taken.get("mm_projector_lr")
    rates = {"connector_lr": taken.number("mm_projector_lr", 2e-5)} if rate not in (None, "None") else {}
    if not taken.flag("lora_enable"):
        return {"name": "full", **rates}
    four = int(taken.number("bits", 16)) == 4
    return {
        "name": "qlora" if four else "lora",
        "rank": int(taken.number("lora_r", 64)),
        "alpha": taken.number("lora_alpha", 16),
        "dropout": taken.number("lora_dropout", 0.05),
        **rates,
    }


def _data(taken: _Taken) -> dict[str, Any]:
    source = {"path": str(taken.get("data_path", "rows.json"))}
    if (images := taken.get("image_folder")) is not None:
        source["images"] = str(images)
    data: dict[str, Any] = {"sources": [source]}
    data["order"] = "llava_grouped" if taken.flag("group_by_modality_length") else "llava"
    data["max_length"] = int(taken.number("model_max_length", 512))
    data["pictures"] = {"alpha": "drop", "exif": False}
    if "dataloader_num_workers" in taken.values:
        data["workers"] = int(taken.number("dataloader_num_workers", 0))
    return data


def _optimizer(taken: _Taken) -> dict[str, Any]:
    asked = str(taken.get("optim", "adamw_torch"))
    if asked not in _OPTIMISERS:
        taken.notes.append(f"optim {asked!r} is not there; adamw is taken")
    optimizer: dict[str, Any] = {
        "name": _OPTIMISERS.get(asked, "adamw"),
        "weight_decay": taken.number("weight_decay", 0.0),
    }
    if "adam_beta1" in taken.values or "adam_beta2" in taken.values:
        optimizer["betas"] = [taken.number("adam_beta1", 0.9), taken.number("adam_beta2", 0.999)]
    if "adam_epsilon" in taken.values:
        optimizer["eps"] = taken.number("adam_epsilon", 1e-8)
    return optimizer


def _schedule(taken: _Taken) -> dict[str, Any]:
    asked = str(taken.get("lr_scheduler_type", "linear"))
    if asked not in _DECAYS:
        taken.notes.append(f"lr_scheduler_type {asked!r} is not there; cosine is taken")
    schedule: dict[str, Any] = {"decay": _DECAYS.get(asked, "cosine")}
    if (steps := int(taken.number("warmup_steps", 0))) > 0:
        schedule["warmup_steps"] = steps
    else:
        schedule["warmup_ratio"] = taken.number("warmup_ratio", 0.0)
    return schedule


def _engine(taken: _Taken, precision: str) -> dict[str, Any]:
    """What a DeepSpeed JSON says: its stage from the file, else from its name (zero2.json)."""
    name = taken.get("deepspeed")
    if name is None:
        return {"deepspeed": {"zero": 1}} if precision == "fp16" else {}
    config: Mapping[str, Any] = {}
    if os.path.isfile(str(name)):  # noqa: PTH113 - a name may be anything
        try:
            config = read_object(Path(str(name)))
        except JsonError as error:
            taken.notes.append(f"deepspeed {name} is not read: {error}")
    zero = config.get("zero_optimization")
    zero = zero if isinstance(zero, Mapping) else {}
    stage = zero.get("stage")
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        said = re.search(r"zero[_-]?(?:stage[_-]?)?([0-3])", str(name).lower())
        stage = int(said[1]) if said else 2
        taken.notes.append(f"{name} is not here; ZeRO-{stage} is taken {'by its name' if said else 'for it'}")
    engine: dict[str, Any] = {"zero": stage}
    offloads = {"offload_optimizer": "offload_optimizer", "offload_param": "offload_parameters"}
    for theirs, ours in offloads.items():
        section = zero.get(theirs)
        device = section.get("device") if isinstance(section, Mapping) else None
        by_name = not config and "offload" in str(name).lower() and stage == 3
        if device == "cpu" or by_name:
            engine[ours] = "cpu"
        elif device == "nvme":
            taken.notes.append(f"{name} offloads to a disk; set deepspeed.{ours}: nvme and deepspeed.nvme_path")
    return {"deepspeed": engine}
