"""PEFT's adapter_config.json to the section of a tuner. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lensmith import LensmithError

_PLAIN = ("rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "layers_pattern", "fan_in_fan_out")
"""Settings that LoRA as a spec names it does not have."""


def tuner_of(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The `lora` section that makes these adapters.

    Raises:
        LensmithError: another method, or settings that the `lora` tuner does not have.
    """
    if config.get("peft_type") != "LORA":
        raise LensmithError(f"{origin}: its adapters are {config.get('peft_type')!r}, only LORA is imported")
    if unknown := [name for name in _PLAIN if config.get(name)]:
        raise LensmithError(f"{origin}: adapter_config.json sets {', '.join(unknown)}, which the lora tuner does not")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise LensmithError(f"{origin}: its adapters train biases, which the lora tuner does not")
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        raise LensmithError(f"{origin}: target_modules {targets!r} is no list of names")
    return {
        "name": "lora",
        "rank": int(config["r"]),
        "alpha": float(config.get("lora_alpha", config["r"])),
        "dropout": float(config.get("lora_dropout", 0.0)),
        "rslora": bool(config.get("use_rslora", False)),
        "dora": bool(config.get("use_dora", False)),
        "targets": {"language_model": sorted(targets)},
    }
