"""What rows become, for people and programs: prompt, ids and supervised spans, without opening a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lensmith import parts
from lensmith.data.encode import Encoded, encode
from lensmith.data.reader import RowReader
from lensmith.data.rows import identity
from lensmith.data.sample import rendered
from lensmith.data.sources import Mixture
from lensmith.errors import DataError
from lensmith.interfaces.text import IMAGE_ID, IMAGE_PLACEHOLDER, ConversationError, Tokenizer
from lensmith.spec.run import RunSpec, SourceSpec, StageSpec


@dataclass
class Preview:
    """One row.

    Args:
        id: the row's id.
        prompt: the text that is tokenised.
        input_ids: one -200 a picture.
        supervised: half-open spans over `input_ids` that are learnt.
        status: `ok` or `skipped`.
        reason: why a row is skipped.
        pieces: readable text with whether it is supervised.
    """

    id: str
    prompt: str = ""
    input_ids: list[int] = field(default_factory=list)
    supervised: list[tuple[int, int]] = field(default_factory=list)
    status: str = "ok"
    reason: str = ""
    pieces: list[tuple[str, bool]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The line that `--json` prints."""
        return {
            "id": self.id,
            "prompt": self.prompt,
            "input_ids": self.input_ids,
            "supervised": [list(span) for span in self.supervised],
            "status": self.status,
            "reason": self.reason,
        }


def preview(
    spec: RunSpec, stage: StageSpec, *, rows: Path | None = None, limit: int | None = None
) -> Iterator[Preview]:
    """Rows of a stage in file order, or of another file read with the stage's settings.

    Raises:
        DataError: a file that cannot be read.
    """
    data = stage.data
    if rows is not None:
        data = data.model_copy(update={"sources": [SourceSpec(path=rows.absolute())]})
    mixture = Mixture(data)
    tokenizer = parts.tokenizer(spec.model)
    reader = RowReader(mixture, parts.conversation(spec.model, stage), tokenizer, max_length=0)
    for index in islice(range(len(mixture)), limit):
        yield _preview(reader, index)


def _preview(reader: RowReader, index: int) -> Preview:
    source, number = reader.mixture.locate(index)
    try:
        row = reader.row(index)
    except DataError as error:
        return Preview(_identity(reader, index, number), status="skipped", reason=str(error))
    try:
        encoded = encode(rendered(row, reader.conversation), reader.tokenizer)
    except ConversationError as error:
        reason = f"{source.rows.place(number)}: row {row.id!r} {error}"
        return Preview(row.id, status="skipped", reason=reason)
    entry = Preview(row.id, encoded.prompt, list(encoded.ids), list(encoded.supervised))
    entry.pieces = _pieces(encoded, reader.tokenizer)
    try:
        reader.encoded(index, row)
    except DataError as error:
        entry.status, entry.reason = "skipped", str(error)
    return entry


def _identity(reader: RowReader, index: int, number: int) -> str:
    try:
        return identity(reader.mixture.locate(index)[0].rows[number], number)
    except DataError:
        return str(number)


def _pieces(encoded: Encoded, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """Readable stretches between the borders of supervision and pictures."""
    learnt = [False] * len(encoded.ids)
    for start, end in encoded.supervised:
        learnt[start:end] = [True] * (end - start)
    pieces: list[tuple[str, bool]] = []
    run: list[int] = []

    def flush(supervised: bool) -> None:
        if run:
            pieces.append((tokenizer.decode(run), supervised))
            run.clear()

    previous = False
    for token, supervised in zip(encoded.ids, learnt, strict=True):
        if token in (IMAGE_ID, tokenizer.eos_id) or supervised != previous:
            flush(previous)
        previous = supervised
        if token == IMAGE_ID:
            pieces.append((IMAGE_PLACEHOLDER, supervised))
        elif token == tokenizer.eos_id:
            pieces.append((tokenizer.eos_token, supervised))
        else:
            run.append(token)
    flush(previous)
    return pieces
