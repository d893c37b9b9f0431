"""How weights are brought in: chosen by the tuner, obeyed by every part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Loading:
    """How a part's weights are loaded.

    Args:
        dtype: floating type of the parameters.
        weights: False builds the structure alone (meta device, or weights that follow from an artifact).
        options: further keyword arguments for `from_pretrained` (a quantisation config), set by a tuner.
    """

    dtype: torch.dtype = torch.float32
    weights: bool = True
    options: dict[str, Any] = field(default_factory=dict)
