"""One HTML page of a benchmark: numbers, then pictures, questions and answers, worst first. It loads nothing."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from lensmith.errors import DataError
from lensmith.evaluation.summary import lines
from lensmith.files import write_text
from lensmith.interfaces.benchmark import SampleScore

_SIDE = 160
_QUALITY = 70
_LONGEST = 4000
"""Characters of a text that are shown."""


def write_report(
    path: Path,
    told: Mapping[str, Any],
    samples: Sequence[SampleScore],
    pictures: Mapping[str, Sequence[Path]],
    *,
    artifact: str,
    limit: int = 300,
) -> None:
    """Write the page.

    Args:
        path: of the file.
        told: see `summary`.
        samples: all of them; those without a score come first, then the lowest.
        pictures: files by question id, as text.
        artifact: what answered.
        limit: answers that are shown.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = _number
    template = environment.from_string(files("lensmith.evaluation").joinpath("report.html.jinja").read_text("utf-8"))
    worst = sorted(samples, key=lambda sample: -1.0 if sample.score is None else sample.score)[:limit]
    shown = [
        {
            "sample": _shortened(sample),
            "colour": _colour(sample.score),
            "pictures": [url for file in pictures.get(str(sample.question_id), ()) if (url := thumbnail(file))],
        }
        for sample in worst
    ]
    options = ", ".join(f"{name} {json.dumps(value)}" for name, value in told["options"].items())
    page = template.render(told=told, artifact=artifact, metrics=list(lines(told)), shown=shown, options=options)
    write_text(path, page)


def thumbnail(file: Path) -> str:
    """A small JPEG of a picture as a data URL; empty where it cannot be read."""
    from lensmith.data.pictures import open_picture

    try:
        image = open_picture(file)
    except DataError:
        return ""
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shortened(sample: SampleScore) -> dict[str, Any]:
    cells = {name: getattr(sample, name) for name in SampleScore.__dataclass_fields__}
    return {
        name: f"{value[:_LONGEST]}…" if isinstance(value, str) and len(value) > _LONGEST else value
        for name, value in cells.items()
    }


def _colour(score: float | None) -> str:
    if score is None or score <= 0:
        return "wrong"
    return "right" if score >= 1 else "part"


def _number(value: Any) -> str:
    if value is None:
        return "not scored"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
