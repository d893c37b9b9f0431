"""Rows of a stage by running index: raw JSON to encoded row to sample, each mistake told with its file and line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from lensmith.data.columns import Column, column
from lensmith.data.encode import Encoded
from lensmith.data.order import modality_length
from lensmith.data.rows import LongRow, Row, RowError, identity, parse_row
from lensmith.data.sample import PicturePipeline, Sample, encode_row, expand, instructions, truncate
from lensmith.data.sources import Mixture, RowFile
from lensmith.data.survey import UNUSABLE, Entry, Texts, survey
from lensmith.errors import DataError
from lensmith.interfaces.text import IMAGE_ID, Conversation, ConversationError, Tokenizer, Turn


@dataclass
class RowReader:
    """Reads rows of a mixture through one template and tokenizer. Workers inherit it by fork.

    Args:
        mixture: the open sources.
        conversation: the template.
        tokenizer: the language model's.
        max_length: positions that a row may take.
        pictures: prepares pictures; None where only text is looked at.
    """

    mixture: Mixture
    conversation: Conversation
    tokenizer: Tokenizer
    max_length: int
    pictures: PicturePipeline | None = None

    def __post_init__(self) -> None:
        self.conversation = self.conversation.bind(self.tokenizer)

    def row(self, index: int) -> Row:
        """The parsed row.

        Raises:
            DataError: with file, line and the cure.
        """
        source, number = self.mixture.locate(index)
        raw = source.rows[number]
        try:
            return parse_row(
                raw,
                number=number,
                placement=self.mixture.spec.image_placement,
                missing_images=source.spec.missing_images,
                ignored=source.spec.ignore,
            )
        except RowError as error:
            raise RowError(f"{source.rows.place(number)}: row {identity(raw, number)!r} {error}") from error

    def encoded(self, index: int, row: Row | None = None) -> Encoded:
        """The row's ids and supervised spans.

        Raises:
            DataError: with file, line, row id and the cure.
        """
        row = row or self.row(index)
        try:
            return encode_row(row, self.conversation, self.tokenizer)
        except RowError as error:
            raise RowError(f"{self.place(index)}: row {row.id!r} {error}") from error

    def sample(self, index: int) -> Sample:
        """The row with its pictures, cut to `max_length` where the spec says so.

        Raises:
            LongRow: the row is left out by the spec's `long_rows`.
            DataError: with file, line, row id and the cure.
        """
        if self.pictures is None:
            raise DataError("this reader was made without a picture pipeline")
        row = self.row(index)
        source, _ = self.mixture.locate(index)
        try:
            encoded = encode_row(row, self.conversation, self.tokenizer)
            shown = zip(row.images, instructions(row.turns), strict=True)
            pictures = [self.pictures.open(source.root, name, words) for name, words in shown]
            tokens = [picture.layout.tokens for picture in pictures]
            encoded = self.fit(encoded, tokens)
            return expand(row.id, encoded, pictures, self.tokenizer.pad_id)
        except DataError as error:
            told = LongRow if isinstance(error, LongRow) else RowError
            raise told(f"{self.place(index)}: row {row.id!r}: {error}") from error

    def fit(self, encoded: Encoded, picture_tokens: list[int]) -> Encoded:
        """Apply `max_length` and the spec's `long_rows`.

        Raises:
            LongRow: the row is too long and the spec leaves such rows out.
            RowError: the row is too long and may not, or cannot, be cut.
        """
        length = len(encoded.ids) - len(picture_tokens) + sum(picture_tokens)
        if length <= self.max_length:
            return encoded
        if self.mixture.spec.long_rows == "truncate":
            return truncate(encoded, picture_tokens, self.max_length)
        too_long = f"takes {length} positions, max_length is {self.max_length}; raise it or set long_rows: truncate"
        raise LongRow(too_long) if self.mixture.spec.long_rows == "skip" else RowError(too_long)

    def place(self, index: int) -> str:
        """File and line of a running index."""
        source, number = self.mixture.locate(index)
        return source.rows.place(number)

    def lengths(self) -> list[int]:
        """The signed length of every row, for grouping (see `modality_length`).

        Raises:
            DataError: a row without words, with its file and line.
        """
        found: list[int] = []
        for source in self.mixture.sources:
            words = column(source.spec.path, "signed-words", lambda source=source: _words(source.rows))  # type: ignore[misc]
            for number in source.kept:
                if not words[number]:
                    _refuse(source.rows, number)
                found.append(int(words[number]))
        return found

    def survey(self) -> Texts:
        """What the text of each row comes to, by running index: entries of `lensmith.data.survey.TEXT`.

        It is worked out when a file is first read with a tokenizer and template, and kept beside it.
        """
        same = self._fingerprint()
        start, found = 0, []
        for source in self.mixture.sources:
            rows = range(start, start := start + len(source.kept))
            if same:
                own = source.spec.model_dump(mode="json", include={"fraction", "seed", "missing_images", "ignore"})
                depends = json.dumps([same, own, len(rows)])
                found.append(column(source.spec.path, "texts", lambda rows=rows: survey(rows, self._text), depends))  # type: ignore[misc]
            else:
                found.append(survey(rows, self._text))
        return np.concatenate(found) if len(found) != 1 else found[0]

    def problem(self, index: int) -> str:
        """Why the text of a row cannot be used; empty where it can."""
        try:
            self.encoded(index)
        except DataError as error:
            return str(error)
        return ""

    def _text(self, index: int) -> Entry:
        try:
            encoded = self.encoded(index)
        except DataError:
            return UNUSABLE
        images = encoded.ids.count(IMAGE_ID)
        first = encoded.supervised[0][0]
        before = encoded.ids[:first].count(IMAGE_ID)
        last = len(encoded.ids) - encoded.ids[::-1].index(IMAGE_ID) - images if images else 0
        learnt = sum(end - start for start, end in encoded.supervised)
        return len(encoded.ids) - images, images, learnt, first - before, before, last

    def _fingerprint(self) -> str:
        """What the ids of a row depend on besides the row; empty where that is not known.

        A template is told by what it makes of a few conversations.
        """
        tokenizer = self.tokenizer.fingerprint()
        if not tokenizer:
            return ""
        rendered = []
        for turns in _PROBES:
            try:
                rendered.append(repr(self.conversation.render(turns)))
            except ConversationError as error:
                rendered.append(str(error))
        kind = type(self.conversation)
        said = [tokenizer, kind.__module__, kind.__qualname__, self.mixture.spec.image_placement, rendered]
        return hashlib.sha256(json.dumps([version("lensmith"), *said]).encode()).hexdigest()


_PROBES = (
    (Turn("user", ("One?",)), Turn("assistant", ("Two.",))),
    (Turn("user", (None, "\n One? ")), Turn("assistant", (" 2.\n",)), Turn("user", ("3",)), Turn("assistant", ("4",))),
    (Turn("user", ("One", None, "two", None)), Turn("assistant", (None, "three"))),
    (Turn("user", ("Left open",)),),
)
"""Conversations that templates render in different ways."""


def _words(rows: RowFile) -> Column:
    """The signed length of every row of a file; 0 for one that has none."""

    def words(number: int) -> int:
        try:
            return modality_length(rows[number])
        except (DataError, LookupError, TypeError, AttributeError):
            return 0

    return np.array([words(number) for number in range(len(rows))], dtype=np.int32)


def _refuse(rows: RowFile, number: int) -> None:
    """Say why a row has no length.

    Raises:
        DataError: always, with the row's file and line.
    """
    try:
        modality_length(rows[number])
    except DataError as error:
        raise RowError(f"{rows.place(number)}: row {error}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise RowError(f"{rows.place(number)}: row has no `conversations` whose words could be counted") from error
    raise RowError(f"{rows.place(number)}: row changed while it was read; start again")
