"""Language model: embeddings in, logits out. No subclass of anybody's LLM."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lensmith.interfaces.loading import Loading
from lensmith.interfaces.shapes import LanguageShape
from lensmith.interfaces.text import Tokenizer


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are produced.

    Args:
        max_new_tokens: upper bound of an answer's length.
        temperature: 0 is greedy; above, sampling.
        top_p: nucleus mass when sampling.
        beams: beam-search width.
        stop: texts that end an answer besides the end token.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1
    stop: tuple[str, ...] = ()


class LanguageModel(nn.Module, abc.ABC):
    """A causal language model behind input embeddings. A subclass sets `shape` and `tokenizer`."""

    shape: LanguageShape
    tokenizer: Tokenizer
    network: nn.Module
    """The wrapped model: what tuners adapt and what is published when it was trained."""

    @classmethod
    @abc.abstractmethod
    def build(cls, spec: Any, loading: Loading) -> LanguageModel:
        """Build from the spec and load its weights (see `VisionEncoder.build`)."""

    @classmethod
    @abc.abstractmethod
    def load_tokenizer(cls, spec: Any) -> Tokenizer:
        """The tokenizer alone, for commands that need no weights."""

    @classmethod
    @abc.abstractmethod
    def measure(cls, spec: Any) -> LanguageShape:
        """Sizes by building on the meta device; for models without a closed form."""

    @abc.abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: ids (…) to (…, D)."""

    @abc.abstractmethod
    def forward(self, embeds: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """Decode: embeds (B, T, D) to hidden states (B, T, D).

        Args:
            embeds: input embeddings.
            positions: (B, T), restarting at 0 with each segment.
            segments: (B, T); 0 is padding, 1, 2, … number the samples packed into a row. A position sees
                only earlier positions of its own segment.
        """

    @abc.abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, vocabulary) of hidden states (…, D)."""

    @abc.abstractmethod
    def generate(
        self,
        embeds: Tensor,
        mask: Tensor,
        options: GenerationOptions,
        on_token: Callable[[int], None] | None = None,
    ) -> list[Sequence[int]]:
        """Continue prompts.

        Args:
            embeds: prompts (B, T, D), padded on the left.
            mask: (B, T), true at real positions.
            options: how.
            on_token: called with each new id while a single prompt (B = 1) is continued without beams.

        Returns:
            New ids of each row, without the end token.
        """

    def checkpoint_activations(self) -> bool:
        """While training, keep only the inputs of blocks and compute the rest again in the backward pass.

        Returns:
            Whether this model can; by default it cannot.
        """
        return False

    @abc.abstractmethod
    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write the network as a folder that `build` and plain transformers load.

        Args:
            folder: an empty folder.
            state: the gathered weights, where they are sharded over ranks; else the module's own.
        """
