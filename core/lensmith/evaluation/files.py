"""Files of benchmarks: found below a folder, read with the line in every message."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from lensmith.errors import DataError
from lensmith.evaluation.reasoning import without_reasoning
from lensmith.interfaces.benchmark import Prediction, Predictions
from lensmith.io.json import NotJson, decode_text, parse_json, read_bytes
from lensmith.io.json import read_json as read_json

_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}


@dataclass(frozen=True)
class Line:
    """One record of a file and where it stands."""

    value: Any
    place: str


def find(data: Path, what: str, *patterns: str) -> Path:
    """The official file of that kind below a folder.

    Args:
        data: a folder, or the file itself.
        what: for the message, e.g. `the questions of GQA`.
        patterns: file names, `*` allowed, the best first.

    Raises:
        DataError: none or several, with their names.
    """
    found = find_all(data, *patterns)
    if not found:
        raise DataError(
            f"{data}: {what} are not there; looked for {' or '.join(patterns)} in it and the folders below"
            if data.exists()
            else f"{data}: there is no such folder (it should hold {what}, {' or '.join(patterns)})"
        )
    if len(found) > 1:
        raise DataError(f"{data}: {what} could be {' or '.join(map(str, found))}; name one of these files as the data")
    return found[0]


def find_all(data: Path, *patterns: str) -> list[Path]:
    """Files of the best pattern that matches any, those nearest to the top; empty where none does."""
    if data.is_file():
        return [data]
    names = _file_names(data)
    for pattern in patterns:
        matching = [path for path in names if fnmatch(str(path) if "/" in pattern else path.name, pattern)]
        if matching:
            depth = min(len(path.parts) for path in matching)
            return sorted(data / path for path in matching if len(path.parts) == depth)
    return []


def _file_names(folder: Path) -> list[Path]:
    """Relative names of the files that are no pictures."""
    names = []
    for here, folders, files in os.walk(folder):
        folders.sort()
        relative = Path(here).relative_to(folder)
        names += [relative / name for name in files if Path(name).suffix.lower() not in _PICTURES]
    return names


class PictureFolder:
    """Pictures by the names that a benchmark gives them, wherever they lie below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for here, folders, files in os.walk(self.folder, followlinks=True):
            folders.sort()
            for name in files:
                if Path(name).suffix.lower() in _PICTURES:
                    found.setdefault(name, []).append(Path(here) / name)
        return found

    def __call__(self, name: str) -> Path:
        """The file with that name or relative path.

        Raises:
            DataError: there is none, or several in different folders.
        """
        direct = self.folder / name
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        if inside and _is_file(direct):
            return direct
        found = self._by_name.get(Path(name).name, []) if inside else []
        if len(found) > 1:
            tail = Path(name).parts
            found = [path for path in found if path.parts[-len(tail) :] == tail] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{self.folder}: picture {name} could be {' or '.join(map(str, found[:3]))}; say --images")
        raise DataError(
            f"{self.folder}: there is no picture {name:.200} below; say where the pictures are with --images"
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a null character
        return False


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    return decode_text(read_bytes(path), str(path))


def read_json_lines(path: Path, *, broken: list[str] | None = None) -> list[Line]:
    """One JSON value a line; empty lines are passed over.

    Args:
        path: the file.
        broken: collects the places of lines that are no JSON; without it they are an error.

    Raises:
        DataError: with the line.
    """
    lines = []
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        place = f"{path}:{number}"
        try:
            lines.append(Line(parse_json(text, str(path), line=number, nonfinite=True), place))
        except NotJson:
            if broken is None:
                raise
            broken.append(place)
    return lines


def read_records(path: Path, *, broken: list[str] | None = None) -> tuple[Any, list[Line]]:
    """What a JSON or JSON-lines file holds.

    Returns:
        The document where the whole file is one (a list or a mapping over several lines, or a list in one), else
        None; and the records: the elements of a list, the lines of a JSON-lines file, the mapping itself.

    Raises:
        DataError: neither, with the line.
    """
    text = read_text(path)
    first = text.lstrip()[:1]
    if first == "[":
        document = parse_json(text, str(path), nonfinite=True)
        return document, [Line(value, f"{path}, entry {number}") for number, value in enumerate(document, 1)]
    if first == "{":
        try:
            document = parse_json(text, str(path), nonfinite=True)
        except NotJson:
            return None, read_json_lines(path, broken=broken)
        return document, [Line(document, f"{path}:1")]
    return None, read_json_lines(path, broken=broken)


def read_table(path: Path, delimiter: str = "\t") -> list[Line]:
    """Rows of a table with a header, as mappings.

    Raises:
        DataError: a row with more cells than the header, by line.
    """
    csv.field_size_limit(1 << 30)  # a cell may hold a picture
    with io.StringIO(read_text(path), newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        lines = []
        for row in reader:
            if None in row:
                raise DataError(f"{path}:{reader.line_num}: more cells than the header has columns")
            lines.append(Line(row, f"{path}:{reader.line_num}"))
    return lines


def require(line: Line, keys: Mapping[str, Any], form: str) -> dict[str, Any]:
    """A record that has those keys with values of those types.

    Args:
        line: the record.
        keys: the type, or tuple of types, of each.
        form: what it should be, for the message.

    Raises:
        DataError: place, what is wrong and what the form is.
    """
    value = line.value
    if not isinstance(value, dict):
        raise DataError(f"{line.place}: a {type(value).__name__} where {form} has an object with {', '.join(keys)}")
    for key, kind in keys.items():
        if key not in value:
            raise DataError(f"{line.place}: no {key!r}; {form} has {', '.join(keys)}, this has {', '.join(value)}")
        if not isinstance(value[key], kind) or isinstance(value[key], bool):
            raise DataError(f"{line.place}: {key!r} is {value[key]!r:.60}, which {form} does not have there")
    return value


LLAVA = {"question_id": (str, int), "text": str}
"""Keys of LLaVA's answer lines that every benchmark needs."""


def llava_lines(lines: Iterable[Line]) -> list[Prediction]:
    """Answers as LLaVA's scripts write them: `{question_id, prompt, text, answer_id, model_id, metadata}` a line.

    Raises:
        DataError: another form, by line.
    """
    rows = []
    for line in lines:
        value = require(line, LLAVA, "an answer line")
        prompt = value.get("prompt")
        rows.append(
            Prediction(
                value["question_id"], value["text"], prompt if isinstance(prompt, str) else "", line.place, value
            )
        )
    return rows


Form = Callable[[Any, Sequence[Line]], "list[Prediction] | None"]
"""Reads a document (None for JSON lines) and its records, or returns None where they are of another form."""


@dataclass
class Reader:
    """Reads prediction files by what is in them.

    Args:
        forms: name and reader of each format that a benchmark takes besides LLaVA's answer lines.
        tolerant: pass over lines that are no JSON, as the benchmark's own tool does.
        described: the formats, for messages.
        runs: forms of which several files are runs of one experiment.
    """

    forms: Mapping[str, Form] = field(default_factory=dict)
    tolerant: bool = False
    described: str = ""
    runs: frozenset[str] = frozenset()

    def __call__(self, files: Sequence[Path]) -> Predictions:
        """Read one file, or several as runs of one experiment.

        Raises:
            DataError: what the file is not, with the line.
        """
        runs = [self._file(path) for path in files]
        if len(runs) == 1:
            return runs[0]
        if runs[0].form not in self.runs:
            raise DataError(f"{files[1]}: only one file of such predictions is scored; score the others on their own")
        notes = [note for run in runs for note in run.notes]
        return Predictions(runs[0].rows, runs[0].form, [s for run in runs for s in run.skipped], runs, notes=notes)

    def _file(self, path: Path) -> Predictions:
        if path.is_dir():
            raise DataError(f"{path} is a folder; name the file with the predictions")
        if not path.is_file():
            raise DataError(f"{path}: there is no such file")
        broken: list[str] | None = [] if self.tolerant else None
        document, lines = read_records(path, broken=broken)
        if not lines:
            what = f"holds no JSON in any of its {len(broken)} lines" if broken else "holds no predictions"
            raise DataError(f"{path} {what}{self._formats()}")
        for name, form in self.forms.items():
            rows = form(document, lines)
            if rows is not None:
                return _answers(rows, name, broken or ())
        if isinstance(document, dict) and "question_id" not in document:
            keys = ", ".join(list(document)[:4])
            raise DataError(f"{path}:1: a mapping with the keys {keys}, … is no form of predictions{self._formats()}")
        try:
            return _answers(llava_lines(lines), "llava", broken or ())
        except DataError as error:
            raise DataError(f"{error}{self._formats()}") from error

    def _formats(self) -> str:
        return f". Read here: LLaVA's answer lines{', ' + self.described if self.described else ''}"


def _answers(rows: Sequence[Prediction], form: str, skipped: Sequence[str]) -> Predictions:
    """Predictions without what the model thought before it answered; a note tells of which."""
    kept = [replace(row, text=without_reasoning(row.text)) for row in rows]
    thought = [row.question_id for row, own in zip(rows, kept, strict=True) if row.text != own.text]
    notes = [f"{len(thought)} replies began with reasoning, left out: {named(thought)}"] if thought else []
    return Predictions(kept, form, skipped, notes=notes)


def keyed(*keys: str) -> Callable[[Sequence[Line]], bool]:
    """Whether the first record is an object with all those keys."""

    def test(lines: Sequence[Line]) -> bool:
        return isinstance(lines[0].value, dict) and all(key in lines[0].value for key in keys)

    return test


def named(ids: Sequence[Any], limit: int = 5) -> str:
    """Some of many ids, for a message."""
    shown = ", ".join(map(str, ids[:limit]))
    return f"{shown}, …" if len(ids) > limit else shown
