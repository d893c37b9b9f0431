"""Connector: vision features to language-model embeddings."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor, nn

from lensmith.interfaces.shapes import ConnectorShape, VisionShape


class Connector(nn.Module, abc.ABC):
    """Maps each view's tokens on their own. A subclass sets `shape`."""

    shape: ConnectorShape

    @classmethod
    @abc.abstractmethod
    def build(cls, spec: Any, encoder: VisionShape, width: int) -> Connector:
        """Build with fresh weights between an encoder and a language model of width D."""

    def calibrate(self, embeddings: Tensor) -> None:
        """Adapt fresh weights to the language model's token embeddings (vocabulary, D). By default nothing."""

    @abc.abstractmethod
    def forward(self, features: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Connect views: features (V, N, W) to (V, M, D).

        Args:
            features: the encoder's output.
            instruction: embedded question (V, T, D) for connectors that read it.
        """

    def tokens_out(self, tokens: int) -> int:
        """M for N tokens in."""
        return self.shape.tokens
