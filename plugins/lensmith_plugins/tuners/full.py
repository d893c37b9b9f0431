"""Train whole parts, or ranges of their layers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lensmith import ParameterGroup, Parameters, ParameterShape, Tuner
from lensmith_plugins.tuners.added_rows import attach, load_rows, merge_rows, rows_group, save_rows
from lensmith_plugins.tuners.layers import LayerSettings, assign, depth, height_of
from lensmith_plugins.tuners.rows_spec import ROWS
from lensmith_plugins.tuners.selection import part_group, tables
from lensmith_plugins.tuners.specs import BRIDGE, PARTS

_LARGE = ("language_model", "vision_encoder")


class FullTuner(Tuner):
    """LLaVA's stage 2, and every other choice of whole parts and layers."""

    def prepare(self, model: nn.Module) -> None:
        """Freeze what the spec leaves out. An artifact holds a part in full where any of it trains."""
        chosen = {p.name for p in self.spec.trainable(tables(model))}
        if self.spec.added_tokens:
            attach(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
        model.changed |= {part for part in _LARGE if self.spec.settings(part)}  # type: ignore[operator]

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        """One group a part, or one an entry or layer where its settings say so."""
        found: list[ParameterGroup] = []
        parts = tables(model)
        for part in PARTS:
            if part == "image_splitter" and self.spec.image_splitter is None:
                continue  # in the connector's group
            for entry, tensors in assign(part, self.spec.settings(part), parts[part]):
                found += _groups(part, entry, tensors, depth(parts[part]))
        if self.spec.image_splitter is None and self.spec.settings("image_splitter"):
            found = _with_splitter(found, part_group(model, "connector", ["image_splitter"], None), self.spec)
        return [group for group in [*found, *rows_group(model)] if group.names]

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Each part of which something was trained, as a folder of its own."""
        written = []
        for part in _LARGE:
            if self.spec.settings(part):
                own = {
                    n.removeprefix(f"{part}."): t
                    for n, t in state.items()
                    if n.startswith(f"{part}.") and not n.startswith(ROWS)
                }
                target = folder / part
                target.mkdir()
                getattr(model, part).save(target, own)
                written.append(part)
        return written + (save_rows(folder, state) if self.spec.added_tokens else [])

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """The rows of added tokens; whole parts are read where their spec points, which the artifact rewrites."""
        if self.spec.added_tokens:
            load_rows(model, folder, trainable=trainable)

    def plain_name(self, name: str) -> str | None:
        """See `Tuner.plain_name`."""
        return None if name.startswith(ROWS) else name

    def merge(self, model: nn.Module) -> None:
        """Put the rows of added tokens into the embeddings."""
        if self.spec.added_tokens:
            merge_rows(model)


def _groups(part: str, entry: LayerSettings, tensors: Parameters, layers: int) -> list[ParameterGroup]:
    name = part if entry.layers == "all" else f"{part} {entry.layers}"
    if entry.layer_decay is None or entry.lr is None:
        return [ParameterGroup(name, _qualified(part, tensors), entry.lr, entry.weight_decay)]
    by_height: dict[int, list[ParameterShape]] = {}
    for tensor in tensors:
        by_height.setdefault(height_of(tensor, layers), []).append(tensor)
    return [
        ParameterGroup(
            f"{part} {'embeddings' if height < 0 else 'head' if height == layers else height}",
            _qualified(part, own),
            entry.lr * entry.layer_decay ** max(0, layers - 1 - height),
            entry.weight_decay,
        )
        for height, own in sorted(by_height.items())
    ]


def _qualified(part: str, tensors: Parameters | list[ParameterShape]) -> tuple[str, ...]:
    return tuple(f"{part}.{tensor.name}" for tensor in tensors)


def _with_splitter(found: list[ParameterGroup], splitter: ParameterGroup, spec: object) -> list[ParameterGroup]:
    """The splitter's vectors in the connector's first group."""
    for number, group in enumerate(found):
        if group.names and group.names[0].split(".")[0] in BRIDGE:
            joined = ParameterGroup(group.name, group.names + splitter.names, group.lr, group.weight_decay)
            return [*found[:number], joined, *found[number + 1 :]]
    settings: LayerSettings = spec.settings("image_splitter")[0]  # type: ignore[attr-defined]
    return [ParameterGroup("connector", splitter.names, settings.lr, settings.weight_decay), *found]
