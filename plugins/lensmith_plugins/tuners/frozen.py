"""Train the bridge alone: connector and splitter vectors."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lensmith import ParameterGroup, Tuner
from lensmith_plugins.tuners.selection import bridge_group, train_only


class FrozenTuner(Tuner):
    """LLaVA's stage 1."""

    def prepare(self, model: nn.Module) -> None:
        """Freeze all but the bridge."""
        train_only(model, ("connector", "image_splitter"))

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        """One group."""
        return [bridge_group(model, self.spec.connector_lr)]

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Nothing: the bridge is written by every stage."""
        return []

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """Nothing to load."""
