"""Files of questions: one JSON object a line, in LLaVA's words or ours. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmith.data.pictures import resolve_inside
from lensmith.data.rows import user_turn
from lensmith.errors import DataError
from lensmith.io.json import JsonError, NotJson, open_regular, parse_json

_EXAMPLE = '{"id": 1, "image": "a.png", "prompt": "What is it?"}'


@dataclass(frozen=True)
class Asked:
    """One row of a file of questions.

    Args:
        line: its number, from 1.
        key: `question_id` or `id`, as the row has it; `line` where it has neither.
        id: its value.
        prompt: the question; empty where it cannot be read.
        images: files inside the image folder.
        problem: why it cannot be asked; empty where it can.
    """

    line: int
    key: str
    id: str | int
    prompt: str = ""
    images: tuple[Path, ...] = ()
    problem: str = ""

    def answered(self, answer: str, model: str) -> dict[str, Any]:
        """The row of an answer: as LLaVA's evaluation reads it, where the question was in LLaVA's words."""
        if self.key == "question_id":
            return {"question_id": self.id, "prompt": self.prompt, "text": answer, "model_id": model}
        return {self.key: self.id, "prompt": self.prompt, "answer": answer}

    def skipped(self, problem: str) -> dict[str, Any]:
        """The row that stands where an answer would."""
        return {self.key: self.id, "prompt": self.prompt, "error": problem}

    def name(self, file: Path) -> str:
        """For messages."""
        return f"{file}:{self.line}" + ("" if self.key == "line" else f" ({self.key} {self.id!r})")


def read_questions(file: Path, root: Path) -> Iterator[Asked]:
    """The rows of a file in their order; empty lines are passed over.

    Args:
        file: of JSON lines. A row has `question_id` or `id`, `text` or `prompt`, and, where it shows pictures, `image`
            or `images`: a path or a list of them. Other fields are not looked at.
        root: the image folder, outside which no row may point.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open_regular(file) as lines:
            ids: set[tuple[str, str | int]] = set()
            for line, text in enumerate(lines, 1):
                if not text.strip():
                    continue
                asked = _parsed(line, text, root)
                if asked.key != "line" and (asked.key, asked.id) in ids:
                    asked = Asked(
                        line, "line", line, problem=f"{asked.key} {asked.id!r} appears twice; make ids differ"
                    )
                ids.add((asked.key, asked.id))
                yield asked
    except JsonError as error:
        raise DataError(f"{error}: a file of questions, {_EXAMPLE} a line") from error
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}); give a file of questions, {_EXAMPLE} a line"
        ) from error


def _parsed(line: int, text: bytes, root: Path) -> Asked:
    key: str = "line"
    name: str | int = line
    prompt = ""
    try:
        try:
            row = parse_json(text, "", line=line)
        except JsonError as error:
            told = (error.reason or str(error)).removeprefix("not valid JSON: ")
            kind = "is not JSON" if isinstance(error, NotJson) else "cannot be used"
            raise DataError(f"{kind}: {told}; write one object a line, e.g. {_EXAMPLE}") from error
        if not isinstance(row, dict):
            raise DataError(f"is {type(row).__name__}, not an object like {_EXAMPLE}")
        found = next((own for own in ("question_id", "id") if own in row), None)
        if found is None:
            raise DataError('has neither "question_id" nor "id"; give each question one')
        if not isinstance(row[found], (str, int)) or isinstance(row[found], bool):
            raise DataError(f'its "{found}" is {type(row[found]).__name__}, not text or a whole number')
        key, name = found, row[found]
        words = row.get("prompt", row.get("text"))
        if not isinstance(words, str):
            raise DataError('has no question: give it as text in "prompt" or, as LLaVA does, in "text"')
        prompt = words
        prompt.encode("utf-8")
        images = _images(row)
        user_turn(prompt, len(images))
        return Asked(line, key, name, prompt, tuple(resolve_inside(root, image) for image in images))
    except UnicodeEncodeError:
        return Asked(line, key, name, problem="its question holds half of a surrogate pair, which is no character")
    except DataError as error:
        return Asked(line, key, name, prompt, problem=str(error))


def _images(row: dict[str, Any]) -> list[str]:
    if row.get("image") is not None and row.get("images") is not None:
        raise DataError('has both "image" and "images"; give one')
    value = row.get("image") if row.get("image") is not None else row.get("images")
    images = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise DataError('its "image" is neither a path nor a list of paths')
    return images
