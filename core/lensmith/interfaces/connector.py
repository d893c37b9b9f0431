"""Connector: vision features to language-model embeddings."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensmith.interfaces.modes import hold_still, trains
from lensmith.interfaces.module_shapes import parameter_shapes
from lensmith.interfaces.shapes import ConnectorShape, VisionShape


class Connector(nn.Module, abc.ABC):
    """Maps each view's tokens on their own. A subclass sets `shape`, or leaves it to `measure`.

    The order of calls for a new model: `build` → `calibrate` → `load_pretrained`. For an artifact: `build`, then its
    own weights are filled in.
    """

    shape: ConnectorShape

    @classmethod
    @abc.abstractmethod
    def build(cls, spec: Any, encoder: VisionShape, width: int) -> Connector:
        """Build with fresh weights between an encoder and a language model of width D.

        It reads nothing that the spec's `sources` names but for sizes, as these files may be gone.
        """

    @classmethod
    def measure(cls, spec: Any, encoder: VisionShape, width: int) -> ConnectorShape:
        """Sizes by building on the meta device and connecting one view; for connectors whose spec has no closed form.

        Where tokens lie on the picture cannot be seen from outside: `grid` is None unless `build` sets `shape`.

        Raises:
            ValueError: what comes out is not (V, M, D).
        """
        with torch.device("meta"), torch.no_grad():
            connector = cls.build(spec, encoder, width)
            parameters = parameter_shapes(connector)
            own: ConnectorShape | None = getattr(connector, "shape", None)
            if own is not None:
                return replace(own, parameters=parameters)
            connected = connector(torch.zeros(2, encoder.tokens, encoder.width))
        if connected.ndim != 3 or len(connected) != 2 or connected.shape[2] != width:
            raise ValueError(
                f"features (2, {encoder.tokens}, {encoder.width}) become {tuple(connected.shape)}; a connector returns"
                f" (V, M, D), here (2, M, {width})"
            )
        return ConnectorShape(connected.shape[1], width, None, parameters)

    def calibrate(self, embeddings: Tensor) -> None:
        """Adapt fresh weights to the language model's token embeddings (vocabulary, D). By default nothing."""

    def load_pretrained(self, spec: Any) -> Sequence[str]:
        """Load the weights that the spec names; by default there are none.

        Returns:
            What the user should know, one line each: tensors that stay fresh.

        Raises:
            OSError: a file that is not there.
            ValueError: weights that do not fit, naming the tensors.
        """
        return ()

    @abc.abstractmethod
    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        """Connect views: features (V, N, W) to (V, M, D).

        Args:
            features: the encoder's output.
            instruction: one text a view, the words of the user's turn that shows its picture; given where
                `shape.reads_instruction`, else None. A picture without words has an empty one.
        """

    def tokens_out(self, tokens: int) -> int:
        """M for N tokens in."""
        return self.shape.tokens

    def train(self, mode: bool = True) -> Connector:
        """Set the mode of `nn.Module.train`; a wholly frozen connector stays in evaluation mode, without dropout, and
        so do frozen batch norms."""
        super().train(mode and trains(self))
        hold_still(self)
        return self

    def save(self, folder: Path) -> None:
        """Write what building this connector reads besides weights (a config, a tokenizer), for `relocated`.

        Args:
            folder: an empty folder; it goes into the artifact where anything was written. The weights are written by
                the artifact itself.
        """
