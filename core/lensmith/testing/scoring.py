"""Check `answers`: right answers score full marks, empty ones none, and what is missing is refused or told."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensmith.errors import DataError, LensmithError
from lensmith.interfaces.benchmark import Benchmark, Item, JudgedSpec, Scores
from lensmith.testing.findings import Broken, NotApplicable, expect
from lensmith.testing.kit import Kit
from lensmith.testing.subjects import Subject, promised

_ITEMS = "`items(data, images)` asks the questions that `tiny(folder)` of the spec writes to its folder."
_FULL = "The right answers, as `Item.reference` has them, score full marks."
_EMPTY = "Empty replies score nothing, or a note says what they count as."
_MISSING = "A question without an answer is refused with a DataError, or told in a note and costs points."
_IDS = "An id is the same as a number and as text."
_TEXT = "A reply that is no text is refused with a DataError that names file and line."


def benchmark(subject: Subject, kit: Kit) -> None:
    """Score the tiny questions' own right answers, and what is less than that."""
    made: Benchmark = subject.implementation(subject.spec)
    data = subject.home
    if not any(data.iterdir()):
        raise NotApplicable("tiny(folder) writes no questions")
    with promised(_ITEMS):
        items = made.items(data, data)
    expect(bool(items), _ITEMS, "There is no question.")
    if made.judged or isinstance(subject.spec, JudgedSpec):
        _judged(made, items, kit.folder(), data)
        return
    if not all(item.reference for item in items):
        raise NotApplicable("not every question has a reference")
    lines = _lines(items)
    file = kit.folder() / "predictions.jsonl"
    with promised(_FULL):
        found = _score(made, lines, file, data)
    full = found.full_marks
    expect(_close(found.value, full), _FULL, f"They score {found.value} of {full}; notes: {'; '.join(found.notes)}.")
    expect(len(found.samples) >= len(items), "There is a sample for every answer.", f"{len(found.samples)} samples.")
    with promised(_EMPTY):
        empty = _score(made, [{**line, "text": ""} for line in lines], file, data)
    expect(not empty.value or bool(empty.notes), _EMPTY, f"They score {empty.value} of {full}, and there is no note.")
    _missing(made, lines, file, data)
    for kind in (str, lambda identity: int(identity) if str(identity).isdecimal() else identity):
        with promised(_IDS):
            other = _score(made, [{**line, "question_id": kind(line["question_id"])} for line in lines], file, data)
        expect(_close(other.value, full), _IDS, f"The right answers with such ids score {other.value} of {full}.")
    try:
        _score(made, [{**lines[0], "text": None}, *lines[1:]], file, data)
        accepted = "`null` was taken for a reply."
    except DataError:
        accepted = ""
    except Exception as error:
        accepted = f"It raised {type(error).__name__}: {error}."
    expect(not accepted, _TEXT, accepted)


def _missing(made: Benchmark, lines: Sequence[dict[str, Any]], file: Path, data: Path) -> None:
    if len(lines) < 2:
        return
    try:
        part = _score(made, lines[:-1], file, data)
    except DataError:
        return
    except Exception as error:
        raise Broken(_MISSING, f"It raised {type(error).__name__}: {error}.") from error
    expect(
        part.value < part.full_marks and bool(part.notes),
        _MISSING,
        f"Without the last answer the score is {part.value} of {part.full_marks}, with {len(part.notes)} notes.",
    )


def _judged(made: Benchmark, items: Sequence[Item], folder: Path, data: Path) -> None:
    promise = "A judged benchmark says what its judge is asked, and does not score without one."
    file = folder / "predictions.jsonl"
    with promised(promise):
        _write(_lines(items), file)
        read = made.read([file])
        requests = made.requests(read, data)
    expect(bool(requests), promise, "There is no request for a judge.")
    try:
        made.score(read, data, None)
    except LensmithError:
        return
    raise Broken(promise, "It scored answers without a judge.")


def _lines(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [
        {"question_id": item.question_id, "prompt": item.prompt, "text": item.reference, **item.extra} for item in items
    ]


def _write(lines: Sequence[dict[str, Any]], file: Path) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _score(made: Benchmark, lines: Sequence[dict[str, Any]], file: Path, data: Path) -> Scores:
    _write(lines, file)
    return made.score(made.read([file]), data)


def _close(value: Any, full: float) -> bool:
    return isinstance(value, (int, float)) and math.isclose(value, full, rel_tol=1e-6)
