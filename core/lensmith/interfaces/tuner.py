"""Tuner: how weights are loaded, what trains, and how the result is saved, loaded and merged."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensmith.interfaces.loading import Loading


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    Args:
        name: for logs and plans, e.g. `connector`.
        names: component-qualified parameter names.
        lr: peak learning rate, or None for the stage's.
        weight_decay: or None for the stage's.
    """

    name: str
    names: tuple[str, ...]
    lr: float | None = None
    weight_decay: float | None = None


class Tuner(abc.ABC):
    """Made once a stage from its spec.

    The order of calls: `loading` → (assembly) → `prepare` → `groups` → training → `save`.
    When an artifact is read: `loading` → (assembly) → `load`.
    """

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def loading(self, dtype: torch.dtype) -> dict[str, Loading]:
        """How each part is loaded, by part name; parts that are not named load plainly in `dtype`."""
        return {}

    @abc.abstractmethod
    def prepare(self, model: nn.Module) -> None:
        """Wrap what is wrapped and set `requires_grad` of every parameter."""

    @abc.abstractmethod
    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        """Parameter groups that cover exactly the parameters with `requires_grad`."""

    @abc.abstractmethod
    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Write what this tuner trained, besides connector and splitter, which every stage writes.

        Args:
            model: the trained model.
            folder: the artifact that is being written.
            state: gathered trained weights on the CPU by component-qualified name.

        Returns:
            Names of the sub-folders written, e.g. `["adapter"]`.
        """

    @abc.abstractmethod
    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """Put what `save` wrote into a freshly assembled model.

        Args:
            trainable: keep it ready for training on; False folds or freezes it for use.

        Raises:
            ValueError: tensors that are missing or do not fit, by name.
        """

    def plain_name(self, name: str) -> str | None:
        """The name that a parameter has without this tuner's wrapping; None for a parameter that the tuner added."""
        return name

    def merge(self, model: nn.Module) -> None:  # noqa: B027 - a tuner without adapters folds nothing
        """Fold adapters into the weights they adapt. By default there is nothing to fold."""
