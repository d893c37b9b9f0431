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
    """Made once a stage from its spec. What it does not define is nobody else's guess: nothing is decided by its name.

    The orders of calls, on every rank and with the same arguments:

    * a stage that begins: `loading` → (assembly) → `prepare` → `groups` → training → `save`;
    * a stage that goes on with the adapters of the artifact before it (where `TunerSpec.lasting` is equal), or an
      artifact that trains on:
      `loading` → (assembly) → `load(trainable=True)` → `prepare` → `groups` → training → `save`;
    * an artifact that is used: `loading` → (assembly) → `load(trainable=False)`, then `merge` or `save` where asked.

    What holds between the calls:

    * `loading` may be left out: a stage after one with adapters, or of random weights, gets its parts loaded plainly.
      `prepare` and `load` then hold them as the tuner wants (QLoRA quantises in place).
    * `prepare` and `load` wrap what is wrapped once, whichever comes first; `prepare` afterwards decides alone, over
      every parameter of the model, what has `requires_grad`. It runs before DeepSpeed has the model.
    * `requires_grad` after `prepare` is exactly `TunerSpec.trainable` of the shapes, by name; a stage compares them,
      and the first step compares the gradients.
    * A part that is to be held in full in the artifact is added to `model.changed` by `prepare`; then `state` in `save`
      has all of its weights, not only those that train, and the artifact writes the part unless `save` did.
    * Between `prepare` or `load` and `merge`, `plain_name` knows every parameter of the model.
    * What `save` wrote is handed on: before a stage with another tuner, in `merge` and in an export, `load` and then
      `merge` put it into the weights, and the next artifact holds in full every part of which `TunerSpec.trainable`
      names a tensor. What cannot be put into the weights must raise in `merge`.
    """

    notes: tuple[str, ...] = ()
    """What a user should know of what `prepare` did, one line each; a stage prints it before it begins."""

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
        """Parameter groups that cover exactly the parameters with `requires_grad`, each once.

        Called after `prepare`, before the weights are sharded.
        """

    @abc.abstractmethod
    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Write what this tuner trained, besides connector and splitter, which every stage writes.

        Args:
            model: the trained model.
            folder: the artifact that is being written.
            state: gathered weights on the CPU by component-qualified name: those that train, and all of a part in
                `model.changed`.

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
        """Fold adapters into the weights they adapt, so that the parameters have the names and shapes of a plain model.

        Weights that were quantised come back in a floating type. By default there is nothing to fold.

        Raises:
            LensmithError: the adapters are no change of weights (a prefix).
        """
