"""Turns, segments and the tokenizer: how a conversation becomes ids with known supervision. No torch here."""

from __future__ import annotations

import abc
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

IMAGE_PLACEHOLDER = "<image>"
IMAGE_ID = -200
"""Stands for one picture in a list of ids before its positions are expanded (as in the original LLaVA)."""
IGNORE_LABEL = -100

Role = Literal["user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message.

    Args:
        role: who speaks.
        parts: text pieces in order; `None` stands for one picture.
    """

    role: Role
    parts: tuple[str | None, ...]

    @property
    def images(self) -> int:
        """How many pictures the message shows."""
        return sum(part is None for part in self.parts)

    @property
    def text(self) -> str:
        """The words alone."""
        return "".join(part for part in self.parts if part is not None)


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered conversation that is supervised as a whole or not at all.

    Args:
        text: the words; for a `token` the literal token, for `image` and `eos` empty.
        supervised: whether the model is trained to produce it.
        kind: `text` is tokenised without looking for special tokens, so a user's `</s>` stays text;
            `token` is one special token by its literal; `eos` is the language model's own end token;
            `image` is one picture; `start`, first of all, says that the template writes the beginning of a row
            itself, so that no BOS is put before it.
    """

    text: str = ""
    supervised: bool = False
    kind: Literal["text", "token", "eos", "image", "start"] = "text"


class Conversation(abc.ABC):
    """A prompt template: turns in, segments out.

    Labels come from the segments alone; nothing is tokenised twice and counted.
    """

    def bind(self, tokenizer: Tokenizer) -> Conversation:
        """The same template for one language model's tokenizer, where it depends on that; by default itself.

        Called wherever a conversation is made for a model, before anything is rendered. What is wrong with the pair
        is said by `render`, where rows are known.
        """
        return self

    @abc.abstractmethod
    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        """Turn a conversation into segments.

        Args:
            turns: alternating messages, the user first.
            reply: leave the last user message open, ready for the model's answer.

        Raises:
            ConversationError: turns that this template cannot express, saying which and why.
        """

    def with_system(self, text: str) -> Conversation:
        """The same template, bound as it is, with another system text; empty for none.

        Raises:
            ConversationError: the template has no place for one, as by default.
        """
        raise ConversationError("this model's conversation has no place for a system message; leave it out")

    def stop_strings(self) -> tuple[str, ...]:
        """Texts besides the end token that end an answer."""
        return ()

    def problems(self, tokenizer: Tokenizer) -> list[str]:
        """What is wrong with the template and a tokenizer, whatever the rows: `lensmith check` tells it.

        By default that an answer ends in nothing that is learnt: neither in a special token nor in a stop text.

        Args:
            tokenizer: may be one that knows its special tokens and template and cannot tokenise.
        """
        bound = self.bind(tokenizer)
        turns = (Turn("user", (None, "\nWhat colour is it?")), Turn("assistant", ("red",)))
        try:
            learnt = [segment for segment in bound.render(turns) if segment.supervised]
        except ConversationError as error:
            return [str(error)]
        except NotImplementedError:  # needs ids to be rendered; its rows are looked at all the same
            return []
        ends = bound.stop_strings()
        if learnt and any(segment.kind in ("eos", "token") for segment in learnt[-1:]):
            return []
        if learnt and learnt[-1].text.endswith(ends or ("\0",)):
            return []
        return [
            "its answers end in nothing that is learnt, so the model would never learn to stop: write a segment of kind"
            " `eos` behind each, or name a text that ends them in `stop_strings`"
        ]


class ConversationError(ValueError):
    """Turns that a template cannot express."""


@dataclass(frozen=True)
class Pieces:
    """Ids of one stretch of text, each with the characters it covers.

    Args:
        ids: token ids.
        offsets: half-open character ranges, one an id; empty ranges for ids that stand for no character.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ChatText:
    """What a tokenizer's own chat template made of messages.

    Args:
        text: the rendered template, special tokens spelled out.
        answers: half-open character ranges that the template itself marks as the assistant's, in order; None where
            it marks nothing.
        reads: names of the variables that the template reads; None where that is not known.
    """

    text: str
    answers: tuple[tuple[int, int], ...] | None = None
    reads: frozenset[str] | None = None


class Tokenizer(abc.ABC):
    """What the data pipeline needs of a language model's tokenizer."""

    bos_id: int | None
    """Put once at the start of a row, or None where the model was trained without."""
    eos_id: int
    eos_token: str
    pad_id: int

    @abc.abstractmethod
    def encode(self, text: str, *, after: Literal["start", "image", "token"]) -> Pieces:
        """Tokenise a stretch of text. Special tokens written in it stay ordinary text.

        Args:
            text: the stretch.
            after: what stands before it: nothing (or BOS), a picture, or a special token. SentencePiece
                models write a word differently after each.
        """

    @abc.abstractmethod
    def token_id(self, token: str) -> int | None:
        """The id of a special token by its literal, or None where the tokenizer has no such token."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""

    def fingerprint(self) -> str:
        """What tells tokenizers apart that write other ids: what is worked out with one is kept under it.

        Empty, as by default, where that cannot be said: nothing is kept.
        """
        return ""

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        reply: bool,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        date: datetime.date | None = None,
    ) -> ChatText:
        """Render messages with the chat template that came with the tokenizer. By default there is none.

        A template is a stranger's program: an implementation bounds its time, its memory and what it writes.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": text}` each; for a template that reads
                parts the content is `[{"type": "text", "text": text}]`.
            reply: end where the assistant's answer begins.
            template: a template's text, instead of the tokenizer's own.
            variables: further values that the template may read.
            date: what a template that writes the day (`strftime_now`) takes for today; a fixed one where it is None.

        Raises:
            ConversationError: there is no template, or it cannot express these messages.
        """
        raise ConversationError(
            "the language model's tokenizer has no chat template; set `model.conversation` to a template by name"
        )

    def split_special(self, text: str) -> list[tuple[str, str | None]]:
        """Text that a template wrote, cut into special tokens and what stands between them.

        Returns:
            Pieces that make up `text`, each with the literal of the special token that it is, or None.
        """
        return [(text, None)] if text else []

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write it to an empty folder, so that an artifact says what its ids mean without its base model."""


class DeclaredTokenizer(Tokenizer):
    """A tokenizer as its files describe it: it knows its special tokens and its template, and cannot tokenise.

    `lensmith check` looks at conversations with it, before anything is loaded.
    """

    text_ids: int
    """One more than the largest id that text can become, special tokens left out."""
