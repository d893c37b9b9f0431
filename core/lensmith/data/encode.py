"""Segments to ids: one tokenisation of each stretch, labels by character offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lensmith.interfaces.text import IMAGE_ID, IMAGE_PLACEHOLDER, ConversationError, Segment, Tokenizer


@dataclass(frozen=True)
class Encoded:
    """A conversation as ids.

    Args:
        ids: token ids, one `IMAGE_ID` a picture.
        supervised: half-open spans over `ids` that the model learns to produce. A picture within an answer lies in
            its span; the positions that it expands to are never targets.
        prompt: what the ids say, to be read by people: end tokens and `<image>` spelled out, BOS left out.
    """

    ids: list[int]
    supervised: list[tuple[int, int]]
    prompt: str


def encode(segments: Sequence[Segment], tokenizer: Tokenizer) -> Encoded:
    """Tokenise a rendered conversation.

    Neighbouring text segments are tokenised as one stretch, so the ids are those of the whole prompt; an id is
    supervised if one of its characters is.

    Args:
        segments: what a `Conversation` rendered.
        tokenizer: the language model's.

    Raises:
        ConversationError: the conversation writes a special token that the tokenizer does not have.
    """
    script = _Script(tokenizer)
    for segment in segments:
        script.add(segment)
    return script.finish()


@dataclass
class _Script:
    """Ids written so far, and the stretch of text that is still being collected."""

    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    supervised: list[bool] = field(default_factory=list)
    prompt: list[str] = field(default_factory=list)
    stretch: list[Segment] = field(default_factory=list)
    after: Literal["start", "image", "token"] = "start"
    begins: bool = True

    def add(self, segment: Segment) -> None:
        """Write one segment, or keep it for its stretch."""
        if segment.kind == "text":
            if segment.text:
                self.stretch.append(segment)
            return
        self._flush()
        if segment.kind == "start":
            self.begins = False
        elif segment.kind == "image":
            self._write(IMAGE_ID, segment.supervised, IMAGE_PLACEHOLDER)
            self.after = "image"
        elif segment.kind == "eos":
            self._write(self.tokenizer.eos_id, segment.supervised, self.tokenizer.eos_token)
            self.after = "token"
        else:
            self._write(_token_id(segment.text, self.tokenizer), segment.supervised, segment.text)
            self.after = "token"

    def finish(self) -> Encoded:
        """All ids, BOS in front where the model wants it and the template does not write the beginning itself."""
        self._flush()
        bos = self.tokenizer.bos_id
        if bos is not None and self.begins:
            self.ids.insert(0, bos)
            self.supervised.insert(0, False)
        return Encoded(self.ids, _spans(self.supervised), "".join(self.prompt))

    def _write(self, token: int, supervised: bool, text: str) -> None:
        self.ids.append(token)
        self.supervised.append(supervised)
        self.prompt.append(text)

    def _flush(self) -> None:
        if not self.stretch:
            return
        text = "".join(segment.text for segment in self.stretch)
        learn = [segment.supervised for segment in self.stretch for _ in segment.text]
        pieces = self.tokenizer.encode(text, after=self.after)
        self.ids.extend(pieces.ids)
        for start, end in pieces.offsets:
            # An id without characters (a prefix that the tokenizer adds) goes with the text that it introduces.
            covered = learn[start:end] or learn[min(start, len(learn) - 1) :][:1]
            self.supervised.append(any(covered))
        self.prompt.append(text)
        self.stretch = []


def _token_id(token: str, tokenizer: Tokenizer) -> int:
    found = tokenizer.token_id(token)
    if found is None:
        raise ConversationError(
            f"the conversation writes the special token {token!r}, which the language model's tokenizer does not"
            " have; add it to the tokenizer, or set `model.conversation` to a template that this language model knows"
        )
    return found


def _spans(flags: Sequence[bool]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for position, flag in enumerate(flags):
        if flag and spans and spans[-1][1] == position:
            spans[-1] = (spans[-1][0], position + 1)
        elif flag:
            spans.append((position, position + 1))
    return spans
