"""LLaVA's question files: `{question_id, image, text, category}` a line, the format sentence in the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lensmith.evaluation.files import Line, PictureFolder, find_all, keyed, read_json_lines, require
from lensmith.interfaces.benchmark import Item

_KEYS = {"question_id": (str, int), "text": str, "image": str}
_is_question_file = keyed("question_id", "image", "text")


def question_lines(data: Path, *patterns: str) -> list[Line]:
    """Records of LLaVA's question file where there is one, else none."""
    for path in find_all(data, *patterns) if data.is_dir() else ():
        lines = read_json_lines(path)
        if lines and _is_question_file(lines) and "answer_id" not in lines[0].value:
            for line in lines:
                require(line, _KEYS, "LLaVA's question file")
            return lines
    return []


def question_items(
    lines: list[Line], images: Path, reference: Callable[[dict[str, Any]], str] = lambda value: ""
) -> list[Item]:
    """The questions of LLaVA's file, as they stand there."""
    pictures = PictureFolder(images)
    items = []
    for line in lines:
        value = require(line, _KEYS, "LLaVA's question file")
        text = value["text"].removeprefix("<image>").lstrip("\n")
        category = value["category"] if isinstance(value.get("category"), str) else ""
        items.append(Item(value["question_id"], text, (pictures(value["image"]),), reference(value), category))
    return items
