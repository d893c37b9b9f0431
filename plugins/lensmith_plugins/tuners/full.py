"""Train whole parts."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lensmith import ParameterGroup, Tuner
from lensmith_plugins.tuners.selection import bridge_group, part_group, train_only

_PARTS = ("language_model", "vision_encoder")


class FullTuner(Tuner):
    """LLaVA's stage 2, and every other choice of whole parts."""

    def prepare(self, model: nn.Module) -> None:
        """Freeze the parts that the spec leaves out."""
        chosen = [part for part in _PARTS if getattr(self.spec, part)]
        train_only(model, chosen + (["connector", "image_splitter"] if self.spec.connector else []))

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        """One group a part."""
        groups = [bridge_group(model, self.spec.connector_lr)]
        groups += [part_group(model, part, [part], getattr(self.spec, f"{part}_lr")) for part in _PARTS]
        return [group for group in groups if group.names]

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Each trained part as a folder of its own."""
        written = []
        for part in _PARTS:
            if getattr(self.spec, part):
                own = {n.removeprefix(f"{part}."): t for n, t in state.items() if n.startswith(f"{part}.")}
                target = folder / part
                target.mkdir()
                getattr(model, part).save(target, own)
                written.append(part)
        return written

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """Nothing to load: whole parts are read where their spec points, which the artifact rewrites."""
