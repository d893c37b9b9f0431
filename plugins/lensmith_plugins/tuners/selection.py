"""Which parameters of a model train, by part."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lensmith import LanguageShape, ParameterGroup, Parameters, parameter_shapes
from lensmith_plugins.tuners.rows_spec import NAME
from lensmith_plugins.tuners.specs import BRIDGE, PARTS


def train_only(model: nn.Module, parts: Iterable[str]) -> None:
    """Set `requires_grad` of every parameter by the part it belongs to."""
    chosen = tuple(f"{part}." for part in parts)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(chosen))


def part_group(model: nn.Module, name: str, parts: Iterable[str], lr: float | None) -> ParameterGroup:
    """The trained parameters of some parts as one group."""
    prefixes = tuple(f"{part}." for part in parts)
    names = tuple(n for n, p in model.named_parameters() if p.requires_grad and n.startswith(prefixes))
    return ParameterGroup(name, names, lr)


def bridge_group(model: nn.Module, lr: float | None) -> ParameterGroup:
    """Connector and splitter."""
    return part_group(model, "connector", BRIDGE, lr)


def tables(model: nn.Module) -> dict[str, Parameters]:
    """Every tensor of a model by part, the output head not marked as linear: what a plan knows, of the real modules."""
    found = {part: parameter_shapes(getattr(model, part)) for part in PARTS}
    shape: LanguageShape = model.language_model.shape  # type: ignore[assignment]
    own = tuple(p for p in found["language_model"] if not p.name.startswith(f"{NAME}."))
    return {**found, "language_model": shape.marked(own)}
