"""Language model: embeddings in, logits out. No subclass of anybody's LLM."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lensmith.interfaces.loading import Loading
from lensmith.interfaces.memory import Memory
from lensmith.interfaces.modes import hold_still, trains
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

    def packing_obstacle(self) -> str:
        """Why samples that share a row cost this model more than rows of their own; empty, the default, if less.

        The results are the same either way: `forward` keeps segments apart.
        """
        return ""

    @abc.abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, vocabulary) of hidden states (…, D)."""

    def projection(self) -> nn.Linear | None:
        """The layer that `head` is, if it is just that, so that a kernel can compute it together with the loss.

        None, as by default, where anything else happens to the logits (adapters, a scale, a cap).
        """
        return None

    def memory(self) -> Memory | None:
        """An empty memory for `recall`; None, as by default, where this model has none.

        Without it questions about one picture share nothing but its encoding, and `generate` answers them.
        """
        return None

    def recall(self, embeds: Tensor, positions: Tensor, visible: Tensor | None, memory: Memory) -> Tensor:
        """Decode further positions after those in a memory, which they join: embeds (B, T, D) to hidden (B, T, D).

        Only in evaluation mode and without autograd.

        Args:
            embeds: input embeddings.
            positions: (B, T); several may have the same, where answers branch.
            visible: (B, T, S + T), true at what each position sees, the S remembered ones first; each sees itself.
                None where each sees everything before it.
            memory: of `memory()`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no memory")

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
            New ids of each row, without the end token. Where a stop text begins inside an id, that id and those that
            complete the text are there: what the row says ends before the stop text.
        """

    def train(self, mode: bool = True) -> LanguageModel:
        """Set the mode of `nn.Module.train`; a wholly frozen language model stays in evaluation mode, without dropout,
        and so do frozen batch norms."""
        super().train(mode and trains(self))
        hold_still(self)
        return self

    def checkpoint_activations(self) -> bool:
        """While training, keep only the inputs of blocks and compute the rest again in the backward pass; also where
        the model is frozen, and so in evaluation mode, and gradients go through it.

        Returns:
            Whether this model can; by default it cannot.
        """
        return False

    def compile_blocks(self) -> bool:
        """Compile what is repeated in the network with torch.compile, for rows of any length.

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
