"""Train the bridge alone: connector and splitter vectors."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lensmith import ParameterGroup, Tuner
from lensmith_plugins.tuners.added_rows import attach, load_rows, merge_rows, rows_group, save_rows, unfreeze
from lensmith_plugins.tuners.rows_spec import ROWS
from lensmith_plugins.tuners.selection import bridge_group, train_only


class FrozenTuner(Tuner):
    """LLaVA's stage 1."""

    def prepare(self, model: nn.Module) -> None:
        """Freeze all but the bridge."""
        train_only(model, ("connector", "image_splitter"))
        if self.spec.added_tokens:
            attach(model)
            unfreeze(model)

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        """One group."""
        groups = [bridge_group(model, self.spec.connector_lr), *rows_group(model)]
        return [group for group in groups if group.names]

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Nothing but the rows of added tokens: the bridge is written by every stage."""
        return save_rows(folder, state) if self.spec.added_tokens else []

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """The rows of added tokens, where they were trained."""
        if self.spec.added_tokens:
            load_rows(model, folder, trainable=trainable)

    def plain_name(self, name: str) -> str | None:
        """See `Tuner.plain_name`."""
        return None if name.startswith(ROWS) else name

    def merge(self, model: nn.Module) -> None:
        """Put the rows of added tokens into the embeddings."""
        if self.spec.added_tokens:
            merge_rows(model)
