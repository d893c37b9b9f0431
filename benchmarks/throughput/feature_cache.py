"""Stage 1 (the connector trains) with cached features, without, and as transformers' LLaVA with padded batches."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small_llava
from processes import draw, publish, table, versions

CLAIM = 1.9
"""Times the useful tokens a second of the padded baseline."""
SAME = 1e-5
"""Largest relative difference of the connector's gradient."""
PICTURES = (480, 640)
TEXT_SHARE = 0.06
"""Rows without a picture, as in the 665K mixture."""


@dataclass(frozen=True)
class Took:
    """CPU seconds of one micro-batch."""

    data: float
    step: float

    @property
    def both(self) -> float:
        """What a process without data workers waits."""
        return self.data + self.step


def main() -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="micro-batches that every variant takes once")
    parser.add_argument("--rows", type=int, default=6, help="rows of a micro-batch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), arguments.repeats, arguments.rows)


def measure(folder: Path, repeats: int, size: int) -> int:
    """Run everything; the exit status."""
    import torch

    from lensmith.data.batch import Batch, collate, pack
    from lensmith.features.filling import attach
    from lensmith.training import distributed

    torch.set_num_threads(1)
    distributed.start()
    write_rows(folder, (repeats + 1) * size)
    spec = {
        "model": small_llava.parts(folder),
        "stages": {
            "align": {
                "tuner": "frozen",
                "data": {"sources": [str(folder / "rows.jsonl")]},
                "cache": {"folder": str(folder / "cache")},
                "precision": "fp32",
            }
        },
    }
    stage, model, plain = prepared(spec)
    began = time.process_time()
    _, same, cached = prepared(spec, model)
    attach(same, cached, range(len(cached.mixture)), stage, lambda line: print(line.strip(), file=sys.stderr))
    filling = time.process_time() - began
    twin = small_llava.transformers_twin(model, folder)
    twin.requires_grad_(False)
    twin.model.multi_modal_projector.requires_grad_(True)
    image = small_llava.SPECIALS.index(small_llava.IMAGE_TOKEN)
    pad = plain.tokenizer.pad_id

    def padded(batch: Batch) -> Any:
        ids, labels = batch.ids.clone(), torch.full_like(batch.ids, -100)
        ids.view(-1)[batch.image_positions] = image
        labels[:, 1:] = batch.targets[:, :-1]
        return twin(input_ids=ids, attention_mask=(batch.segments > 0).long(), pixel_values=batch.pixels, labels=labels)

    def ours(which: Any) -> Callable[[Batch], Any]:
        return lambda batch: which(batch, dummy_picture=True) / batch.target_count

    variants: dict[str, tuple[Any, Callable[..., Batch], Callable[[Batch], Any], Any]] = {
        "transformers, padded": (
            plain,
            lambda s: collate(s, pad),
            lambda batch: padded(batch).loss,
            twin.model.multi_modal_projector,
        ),
        "Lensmith": (plain, lambda s: pack([s], pad), ours(model), model.connector),
        "Lensmith, cached features": (cached, lambda s: pack([s], pad), ours(same), same.connector),
    }
    taken: dict[str, list[Took]] = {name: [] for name in variants}
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    worst, useful, positions = 0.0, 0, 0
    for number in range(repeats + 1):
        rows = range(number * size, (number + 1) * size)
        names = list(variants)[number % 3 :] + list(variants)[: number % 3]
        round_: dict[str, Took] = {}
        gradients: dict[str, Any] = {}
        for name in names:
            reader, lay, forward, connector = variants[name]
            start = time.process_time()
            batch = lay([reader.sample(row) for row in rows])
            middle = time.process_time()
            forward(batch).backward()
            round_[name] = Took(middle - start, time.process_time() - middle)
            gradients[name] = torch.cat([p.grad.flatten() for p in connector.parameters()])
            for parameter in connector.parameters():
                parameter.grad = None
            if name.startswith("transformers") and number:
                useful += int((batch.segments > 0).sum())
                positions += batch.ids.numel()
        base = gradients["transformers, padded"]
        worst = max([worst, *(float((g - base).norm() / base.norm()) for g in gradients.values())])
        if number:  # the first one warms up
            for name, took in round_.items():
                taken[name].append(took)
                ratios[name].append(round_["transformers, padded"].both / took.both)
        print(f"\rround {number} of {repeats}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return report(taken, ratios, worst, useful / positions, filling, repeats, size)


def prepared(spec: dict[str, Any], like: Any = None) -> tuple[Any, Any, Any]:
    """Stage, model (with the connector of another) and reader of a spec."""
    from lensmith import parts
    from lensmith.assembly import assemble
    from lensmith.data.reader import RowReader
    from lensmith.data.sources import Mixture
    from lensmith.spec.build import load_spec

    loaded = load_spec(spec)
    stage = loaded.stages["align"]
    model = assemble(loaded)
    model.requires_grad_(False)
    model.connector.requires_grad_(True)
    model.train()
    if like is not None:
        model.connector.load_state_dict(like.connector.state_dict())
    template, limit = parts.conversation(loaded.model, stage), small_llava.LANGUAGE["max_position_embeddings"]
    reader = RowReader(Mixture(stage.data), template, model.language_model.tokenizer, limit, model.pictures)
    return stage, model, reader


def write_rows(folder: Path, count: int) -> None:
    """Noise photographs as JPEG, and rows of lengths as uneven as those of the 665K mixture."""
    from PIL import Image

    draw = random.Random(0)
    lines = []
    for number in range(count):
        words = min(1200, max(20, int(draw.lognormvariate(5.0, 0.9))))
        asked = words * 2 // 3
        text = [f"w{draw.randrange(31_000)}" for _ in range(words)]
        line: dict[str, Any] = {"id": str(number)}
        question = " ".join(text[:asked])
        if draw.random() >= TEXT_SHARE:
            line["image"] = f"{number}.jpg"
            question = f"<image>\n{question}"
            small = Image.effect_noise((PICTURES[1] // 8, PICTURES[0] // 8), 90).convert("RGB")
            small.resize((PICTURES[1], PICTURES[0])).save(folder / f"{number}.jpg", quality=90)
        answer = " ".join(text[asked:])
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        lines.append(json.dumps(line | {"conversations": turns}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


def report(
    taken: dict[str, list[Took]],
    ratios: dict[str, list[float]],
    worst: float,
    filled: float,
    filling: float,
    repeats: int,
    size: int,
) -> int:
    """Write the page; the exit status."""

    def middle(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f}"

    base = taken["transformers, padded"]
    rows = []
    for name, took in taken.items():
        step = [b.step / t.step for b, t in zip(base, took, strict=True)]
        spread = f"{middle(ratios[name])} [{min(ratios[name]):.2f}–{max(ratios[name]):.2f}]"
        cost = [f"{statistics.median(t.data for t in took):.3f}", f"{statistics.median(t.step for t in took):.2f}"]
        rows.append([name, *cost, middle(step), spread])
    reached = statistics.median(ratios["Lensmith, cached features"])
    failures = [] if reached >= CLAIM else [f"cached features reach {reached:.2f} times the baseline, not {CLAIM}"]
    failures += [f"the gradients differ by {worst:.1e}"] if worst > SAME else []
    language = small_llava.LANGUAGE
    text = "\n".join(
        [
            "# Stage 1 with cached features",
            "",
            f"Useful tokens a second against transformers' LlavaForConditionalGeneration on the same weights and rows:"
            f" 576 picture positions, a LLaMA of {language['num_hidden_layers']} layers {language['hidden_size']} wide,"
            f" micro-batches of {size} rows, of whose padded positions {filled:.0%} are useful. The connector trains;"
            " a micro-batch is forward and backward, in fp32 on one thread. CPU seconds, medians of"
            f" {repeats} interleaved rounds; in brackets the range.",
            "",
            table(
                ["variant", "data, s", "step, s", "step alone, times the baseline", "with data, times the baseline"],
                rows,
            ),
            "",
            f"The connector's gradients differ by at most {worst:.1e} of their norm. Encoding the pictures once took"
            f" {filling:.1f} s, the second model's loading included. Cached features take the decoding of pictures and"
            " the encoder out of a step; data workers can hide the data column where cores are free. What remains is"
            " the language model's forward and backward pass over useful positions alone.",
            "",
            "![ratios](feature_cache.svg)",
            "",
            f"{versions('torch', 'transformers', 'lensmith')}",
            "",
        ]
    )
    bars = {name: (min(v), statistics.median(v), max(v)) for name, v in ratios.items()}
    draw("feature_cache", {"stage 1": bars}, "useful tokens a second, times transformers padded")
    return publish("feature_cache", text, failures)


if __name__ == "__main__":
    sys.exit(main())
