"""Rows of a stage by running index: raw JSON to encoded row to sample, each mistake told with its file and line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lensmith.data.encode import Encoded
from lensmith.data.order import modality_length
from lensmith.data.rows import LongRow, Row, RowError, identity, parse_row
from lensmith.data.sample import PicturePipeline, Sample, encode_row, expand, instructions, truncate
from lensmith.data.sources import Mixture
from lensmith.errors import DataError
from lensmith.interfaces.text import Conversation, Tokenizer


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
            return parse_row(raw, number=number, placement=self.mixture.spec.image_placement)
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
        found = []
        for index in range(len(self.mixture)):
            source, number = self.mixture.locate(index)
            try:
                found.append(modality_length(source.rows[number]))
            except DataError as error:
                raise RowError(f"{source.rows.place(number)}: row {error}") from error
        return found

    def audit(self, indices: Iterable[int]) -> dict[int, str]:
        """Check the text of rows, without their pictures: messages of those that cannot be used."""
        bad: dict[int, str] = {}
        for index in indices:
            try:
                self.encoded(index)
            except DataError as error:
                bad[index] = str(error)
        return bad
