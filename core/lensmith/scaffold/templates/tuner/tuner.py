"""Choosing what trains, and in which groups. Imported when a stage begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lensmith import ParameterGroup, Tuner, parameter_shapes

PARTS = ("vision_encoder", "image_splitter", "connector", "language_model")


class ExamplePartTuner(Tuner):
    """See `ExamplePartSpec`."""

    def prepare(self, model: Any) -> None:
        """Set `requires_grad` of every parameter. The artifact then holds the language model in full."""
        tensors = {part: parameter_shapes(getattr(model, part)) for part in PARTS}
        chosen = {tensor.name for tensor in self.spec.trainable(tensors)}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
        model.changed.add("language_model")

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        """Two groups: connector and splitter with their own learning rate, the language model with the stage's."""
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        inside = tuple(name for name in trained if name.startswith("language_model."))
        bridge = tuple(name for name in trained if name not in inside)
        groups = [
            ParameterGroup("connector", bridge, self.spec.connector_lr),
            ParameterGroup("language_model", inside, weight_decay=0.0),
        ]
        return [group for group in groups if group.names]

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Nothing of its own: every stage writes the connector, and `changed` has the language model written."""
        return []

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """Nothing of its own: the artifact's language model is loaded before."""
