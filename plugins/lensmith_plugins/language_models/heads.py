"""What an architecture does to the logits after its output embeddings, by what its config says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitRule:
    """Scale, then cap.

    Args:
        scale: factor of the logits.
        cap: bound of a tanh, or None.
    """

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Apply the rule to logits (…, vocabulary)."""
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def logit_rule(config: Any) -> LogitRule:
    """The rule of a transformers text config.

    Cohere multiplies by `logit_scale`, HyperCLOVA X by `logits_scaling`, Falcon-H1 by `lm_head_multiplier`; Granite
    and MiniCPM divide by `logits_scaling`; Gemma and others cap by `final_logit_softcapping`. transformers reads
    `logit_scale` of an MPT config without using it.
    """
    architecture = str(config.model_type)
    scale = 1.0
    if architecture.startswith("cohere"):
        scale = _number(config, "logit_scale")
    elif architecture == "hyperclovax":
        scale = _number(config, "logits_scaling")
    elif architecture == "falcon_h1":
        scale = _number(config, "lm_head_multiplier")
    else:
        scale = 1.0 / _number(config, "logits_scaling")
    return LogitRule(scale, getattr(config, "final_logit_softcapping", None))


def _number(config: Any, key: str) -> float:
    value = getattr(config, key, None)
    return 1.0 if value is None else float(value)
