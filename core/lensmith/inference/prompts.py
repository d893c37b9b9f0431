"""Questions to keys: every picture opened, prepared and encoded once, however many questions show it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lensmith.data.encode import Encoded, encode
from lensmith.data.image_inputs import decode_image
from lensmith.data.rows import user_turn
from lensmith.data.sample import Picture, Sample, expand, instructions
from lensmith.errors import DataError
from lensmith.interfaces.text import IMAGE_ID, ConversationError, Turn

if TYPE_CHECKING:
    from lensmith.model import MultimodalModel

Pictures = Any


@dataclass(frozen=True)
class Question:
    """Pictures and words.

    Args:
        images: in the order in which they are shown; each in any form that `decode_image` takes.
        prompt: the question.
        turns: a whole conversation instead of the prompt; the user's turn is its last, and it shows the pictures.
        system: a system text instead of the conversation's own.
    """

    images: tuple[Any, ...]
    prompt: str
    turns: tuple[Turn, ...] = ()
    system: str | None = None

    @classmethod
    def of(cls, images: Pictures, prompt: str) -> Question:
        """From what a user passes: nothing, one image or a list, tuple or iterator of several; see `decode_image`."""
        if images is None:
            images = ()
        elif not isinstance(images, (list, tuple, Iterator)):
            images = (images,)
        return cls(tuple(images), prompt)

    @property
    def shown(self) -> tuple[object, ...]:
        """What tells whether two questions show the same pictures."""
        return tuple(_known(image) for image in self.images)


def _known(image: Any) -> object:
    """What tells an image from others: what it says, where that cannot change, else which object it is."""
    return image if isinstance(image, (Path, str, bytes)) else id(image)


@dataclass
class Prompts:
    """Prompts of one model, laid out as keys.

    Args:
        model: whose tokenizer, conversation and encoder make them.
    """

    model: MultimodalModel
    _prepared: dict[tuple[object, str], Picture] = field(default_factory=dict)
    _held: list[object] = field(default_factory=list)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    _distinct: list[Picture] = field(default_factory=list)
    _digests: list[str] = field(default_factory=list)
    _starts: list[int] = field(default_factory=lambda: [0])

    def sample(self, question: Question, answer: str | None = None) -> Sample:
        """Lay out one open prompt, or one with its answer, whose targets are then those of training.

        Raises:
            DataError: an unreadable picture, misplaced `<image>`, a question that the conversation cannot express, or
                more positions than the model's context.
        """
        turns = list(question.turns) or [user_turn(question.prompt, len(question.images))]
        if answer is not None:
            turns.append(Turn("assistant", (answer,)))
        tokenizer = self.model.language_model.tokenizer
        conversation = self.model.conversation
        try:
            if question.system is not None:
                conversation = conversation.with_system(question.system)
            encoded = encode(conversation.render(turns, reply=answer is None), tokenizer)
        except ConversationError as error:
            raise DataError(str(error)) from error
        shown = zip(question.images, instructions(turns), strict=True)
        pictures = [self._picture(image, words) for image, words in shown]
        self._check(encoded, pictures, "prompt" if answer is None else "prompt with its answer", answer is None)
        return expand("prompt", encoded, pictures, tokenizer.pad_id)

    def keys(self, sample: Sample) -> list[int]:
        """Of a sample laid out here: its ids, and at picture positions -1 minus the row in `features`."""
        keys = list(sample.ids)
        places = iter(sample.image_positions)
        for picture in sample.pictures:
            start = self._starts[self._number(picture)]
            for offset in range(picture.layout.tokens):
                keys[next(places)] = -1 - start - offset
        return keys

    @torch.inference_mode()
    def features(self, batch_size: int) -> Tensor | None:
        """Tokens (F, D) of the distinct pictures of all keys, None where there are none.

        Args:
            batch_size: pictures that are encoded together.
        """
        found: list[Tensor] = []
        for start in range(0, len(self._distinct), batch_size):
            pictures = self._distinct[start : start + batch_size]
            # With other words beside it, a picture is another one for the connector, but not for the encoder.
            first = {digest: n for n, digest in reversed(list(enumerate(self._digests[start : start + batch_size])))}
            alone = sorted(set(first.values()))
            encoded = self.model.encode(torch.cat([pictures[n].pixels for n in alone]).to(self.model.device))
            views = dict(zip(alone, torch.split(encoded, [len(pictures[n].pixels) for n in alone]), strict=True))
            each = [views[first[digest]] for digest in self._digests[start : start + batch_size]]
            features = encoded if len(each) == len(alone) else torch.cat(each)
            found.append(self.model.connect(features, [p.layout for p in pictures], [p.instruction for p in pictures]))
        return torch.cat(found) if found else None

    def _check(self, encoded: Encoded, pictures: Sequence[Picture], what: str, needs_room: bool) -> None:
        words = sum(token != IMAGE_ID for token in encoded.ids)
        length = words + sum(picture.layout.tokens for picture in pictures)
        limit = self.model.language_model.shape.context_length
        if length + needs_room > limit:
            raise DataError(f"the {what} takes {length} positions, the language model has {limit}")

    def _picture(self, image: Any, words: str) -> Picture:
        known = (_known(image), "")
        if known not in self._prepared:
            pipeline = self.model.pictures
            self._prepared[known] = pipeline.prepare(decode_image(image, pipeline.policy))
            self._held.append(image)  # so that its id stays its own
        plain = self._prepared[known]
        if (known[0], words) not in self._prepared:
            self._prepared[known[0], words] = Picture(plain.pixels, plain.layout, words)
        return self._prepared[known[0], words]

    def _number(self, picture: Picture) -> int:
        """Of a picture among the distinct ones: by its pixels, and its words where the connector reads them."""
        reads = self.model.connector.shape.reads_instruction
        digest = hashlib.blake2b(picture.pixels.numpy().tobytes() + repr(picture.layout).encode()).hexdigest()
        key = (digest, picture.instruction if reads else "")
        if key not in self._numbers:
            self._numbers[key] = len(self._distinct)
            self._distinct.append(picture)
            self._digests.append(digest)
            self._starts.append(self._starts[-1] + picture.layout.tokens)
        return self._numbers[key]
