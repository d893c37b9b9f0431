"""peft's config object from a `PeftSpec`."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from lensmith_plugins.tuners.adapters import shortest
from lensmith_plugins.tuners.peft_library import PEFT_TYPE_TO_CONFIG_MAPPING


def peft_config(spec: Any, layers: list[str], root: nn.Module, **given: Any) -> Any:
    """Make it.

    Args:
        spec: a `PeftSpec`.
        layers: the linear layers to adapt; empty for a method that adapts none.
        root: the network.
        given: fields that follow from the model.

    Raises:
        ValueError: values that the config class refuses, in its words.
    """
    fields = {**spec.config, **given}
    if layers:
        fields["target_modules"] = shortest(layers, root)
        if spec.method == "ia3" and "feedforward_modules" not in fields:
            fields["feedforward_modules"] = [n for n in fields["target_modules"] if n.endswith(("down_proj", "fc2"))]
    if spec.method == "vera":
        fields.setdefault("save_projection", False)  # drawn again from its seed
    classes = {kind.value.lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    try:
        warnings.filterwarnings("ignore", message="Specified to not save vera_A")  # what was asked for above
        return classes[spec.method](task_type="CAUSAL_LM", **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"peft's {spec.method}: {error}") from error
