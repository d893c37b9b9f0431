"""Useful tokens a second of full tuning, against transformers' LLaVA on the same weights and rows."""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import small_llava
from feature_cache import write_rows
from processes import LEAST, draw, publish, shown, table, times, versions

CLAIM = 4.5
"""Times the useful tokens a second of the padded baseline, on T1."""
OF_PADDING = 0.9
"""Share of what the baseline wastes on padding that is won back on 7B-like proportions."""
MEMORY = 6.0
"""Times less memory above the loaded model."""
SAME = 1e-5
"""Largest relative difference of the gradients."""
T1 = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
T1 |= {"num_key_value_heads": 4}
P7 = {"vocab_size": 1_000}
"""Head and encoder as small a share of the step as in LLaVA-7B."""
SHAPES = {"T1": (T1, 16), "P7": (P7, 6)}
"""Language model, and rows of a batch."""
SIDE = 168
"""Pixels of a picture: 144 positions."""
VARIANTS = ("transformers, padded", "transformers, sorted by length", "Lensmith", "Lensmith, cached features")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="batches that every variant takes once")
    parser.add_argument("--rows", type=int, help="rows of a batch, instead of the shape's own")
    parser.add_argument("--shapes", default="T1,P7", help="which of T1 and P7")
    parser.add_argument("--peak", nargs=2, metavar=("SHAPE", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        return print_peak(*arguments.peak, arguments.rows or SHAPES[arguments.peak[0]][1])
    sections, failures, groups = [], [], {}
    for shape in arguments.shapes.split(","):
        section, failed, groups[shape] = measure(shape, arguments.repeats, arguments.rows or SHAPES[shape][1])
        sections.append(section)
        failures += failed
    draw("throughput_training", groups, "useful tokens a second, times transformers padded")
    text = (
        "# Training\n\n"
        f"`python benchmarks/throughput/training.py --repeats {arguments.repeats}` with"
        f" {versions('lensmith', 'torch', 'transformers')}.\n\n"
        "Forward and backward of a batch, language model and connector training, the encoder frozen; fp32 on one CPU"
        " thread, 144 picture positions, lengths as uneven as the 665K mixture's. Useful tokens (not padding) a CPU"
        f" second over those of the padded baseline in the same round, medians of {arguments.repeats} interleaved"
        " rounds with their range. Memory is the most resident above the loaded model, each variant in its own"
        " process. What remains of a step is matrix products over useful positions, the head's at"
        " supervised ones.\n\n" + "\n\n".join(sections) + "\n\n![ratios](throughput_training.svg)\n"
    )
    return publish("throughput_training", text, failures)


class Bench:
    """Models and readers of one shape.

    Args:
        folder: for weights and rows.
        shape: a key of `SHAPES`.
        batches: of rows that are written.
        size: rows of a batch.
    """

    def __init__(self, folder: Path, shape: str, batches: int, size: int) -> None:
        import torch

        from lensmith import parts
        from lensmith.assembly import assemble
        from lensmith.data.reader import RowReader
        from lensmith.data.sources import Mixture
        from lensmith.spec.build import load_spec
        from lensmith.training import distributed

        torch.set_num_threads(1)
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        distributed.start()
        self.size = size
        changes, small_llava.SIDE = SHAPES[shape][0], SIDE
        small_llava.VISION["image_size"] = small_llava.SIDE
        write_rows(folder, batches * size)
        data = {"sources": [str(folder / "rows.jsonl")]}
        stage = {"tuner": "full", "data": data, "cache": {"folder": str(folder / "cache")}, "precision": "fp32"}
        self.spec = load_spec(
            {"model": small_llava.parts(folder, small_llava.LANGUAGE | changes), "stages": {"tune": stage}}
        )
        self.stage = self.spec.stages["tune"]
        self.model = assemble(self.spec)
        self.model.train()
        self.model.vision_encoder.requires_grad_(False)
        self.models: list[Any] = [self.model]
        self.folder = folder
        template = parts.conversation(self.spec.model, self.stage)

        def reader_of(model: Any) -> RowReader:
            return RowReader(Mixture(self.stage.data), template, model.language_model.tokenizer, 2048, model.pictures)

        self.reader, self._reader_of = reader_of(self.model), reader_of
        self.pad = self.model.language_model.tokenizer.pad_id

    def variant(self, name: str) -> tuple[Callable[[Sequence[int]], Any], Callable[[], Sequence[Any]]]:
        """What forms the loss of rows, and the parameters whose gradients it makes."""
        from lensmith.data.batch import collate, pack

        if name.startswith("transformers"):
            twin = self._twin()
            return lambda rows: padded_loss(twin, collate([self.reader.sample(r) for r in rows], self.pad)), lambda: [
                *twin.model.language_model.parameters(),
                *twin.model.multi_modal_projector.parameters(),
            ]
        reader, model = self.reader, self.model
        if name.endswith("cached features"):
            from lensmith.features.filling import attach

            model = copy.deepcopy(self.model)
            self.models.append(model)
            reader = self._reader_of(model)
            attach(model, reader, range(len(reader.mixture)), self.stage, lambda line: None)

        def loss(rows: Sequence[int]) -> Any:
            batch = pack([[reader.sample(r) for r in rows]], self.pad)
            return model(batch, dummy_picture=True) / batch.target_count

        return loss, lambda: [*model.language_model.network.model.parameters(), *model.connector.parameters()]

    def _twin(self) -> Any:
        if not hasattr(self, "_made"):
            self._made = small_llava.transformers_twin(self.model, self.folder).train()
            self._made.model.vision_tower.requires_grad_(False)
            self.models.append(self._made)
        return self._made

    def sorted_rows(self, batches: int) -> list[list[int]]:
        """All rows in batches of like length."""
        lengths = {row: len(self.reader.sample(row).ids) for row in range(batches * self.size)}
        order = sorted(lengths, key=lambda row: lengths[row])
        return [order[at : at + self.size] for at in range(0, len(order), self.size)]

    def useful(self, rows: Sequence[int]) -> tuple[int, int]:
        """Positions of rows, and those of their padded batch."""
        from lensmith.data.batch import collate

        batch = collate([self.reader.sample(r) for r in rows], self.pad)
        return int((batch.segments > 0).sum()), batch.ids.numel()


def padded_loss(twin: Any, batch: Any) -> Any:
    """transformers' loss of a padded batch: the mean over its supervised positions."""
    import torch

    ids, labels = batch.ids.clone(), torch.full_like(batch.ids, -100)
    ids.view(-1)[batch.image_positions] = small_llava.SPECIALS.index(small_llava.IMAGE_TOKEN)
    labels[:, 1:] = batch.targets[:, :-1]
    mask = (batch.segments > 0).long()
    return twin(input_ids=ids, attention_mask=mask, pixel_values=batch.pixels, labels=labels).loss


def measure(shape: str, repeats: int, size: int) -> tuple[str, list[str], dict[str, tuple[float, float, float]]]:
    """A table for one shape, what was missed, and the ratios."""
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), shape, repeats + 1, size)
        made = {name: bench.variant(name) for name in VARIANTS}
        plain = [list(range(at * size, (at + 1) * size)) for at in range(repeats + 1)]
        like = bench.sorted_rows(repeats + 1)
        speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
        worst, useful, positions = 0.0, 0, 0
        for number in range(repeats + 1):
            gradients: dict[str, Any] = {}
            for name in [*VARIANTS[number % 4 :], *VARIANTS[: number % 4]]:
                loss, parameters = made[name]
                rows = like[number] if "sorted" in name else plain[number]
                tokens, padded = bench.useful(rows)
                start = time.process_time()
                loss(rows).backward()
                took = time.process_time() - start
                grads = [p.grad for p in parameters()]
                if "sorted" not in name:
                    gradients[name] = torch.cat([g.flatten() for g in grads])
                for model in bench.models:
                    model.zero_grad(set_to_none=True)
                if number:  # the first round warms up
                    speeds[name].append(tokens / took)
                    if name == VARIANTS[0]:
                        useful, positions = useful + tokens, positions + padded
            base = gradients[VARIANTS[0]]
            worst = max([worst, *(float((g - base).norm() / base.norm()) for g in gradients.values())])
            print(f"\r{shape}: round {number} of {repeats}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    peaks = {name: peak(shape, name, size) for name in (VARIANTS[0], VARIANTS[2])}
    ratios = {
        n: sorted(own / base for own, base in zip(s, speeds[VARIANTS[0]], strict=True)) for n, s in speeds.items()
    }
    ceiling = positions / useful
    reached = {name: statistics.median(values) for name, values in ratios.items()}
    rows = [
        (n, f"{reached[n]:.2f}", f"{v[0]:.2f} – {v[-1]:.2f}", shown(peaks[n], LEAST.peak, 0) if n in peaks else "")
        for n, v in ratios.items()
    ]
    less = times([peaks[VARIANTS[0]]], [peaks[VARIANTS[2]]], LEAST.peak)
    best = max(reached[VARIANTS[2]], reached[VARIANTS[3]])
    failures = [f"{shape}: the gradients differ by {worst:.1e}"] if worst > SAME else []
    if shape == "T1" and best < CLAIM:
        failures.append(f"T1: {best:.2f} times the baseline, less than {CLAIM}")
    if shape == "T1" and less.middle < MEMORY and not less.bound:
        failures.append(f"T1: {less.middle:.1f} times less memory, less than {MEMORY}")
    if shape == "P7" and best < OF_PADDING * ceiling:
        failures.append(f"P7: {best:.2f} times the baseline, less than {OF_PADDING} of its padding's {ceiling:.2f}")
    language = small_llava.LANGUAGE | SHAPES[shape][0]
    text = (
        f"## {shape}: {language['num_hidden_layers']} layers {language['hidden_size']} wide, vocabulary"
        f" {language['vocab_size']:,}, {size} rows\n\n"
        f"{table(('', 'speed', 'range', 'MB'), rows)}\n\n"
        f"The baseline's batches have {ceiling:.2f} times as many positions as useful ones;"
        f" {'more than ' * less.bound}{less.middle:.1f}"
        f" times less memory; gradients differ by at most {worst:.1e} of their norm."
    )
    return text, failures, {name: (v[0], reached[name], v[-1]) for name, v in ratios.items()}


def peak(shape: str, variant: str, size: int) -> float:
    """MB above the loaded model of one batch, in a process of its own."""
    command = [sys.executable, __file__, "--peak", shape, variant, "--rows", str(size)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def print_peak(shape: str, variant: str, size: int) -> int:
    """Of this process; the first small batch makes what stays, gradients included."""
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), shape, 1, size)
        loss, _ = bench.variant(variant)
        loss([0]).backward()
        before = _resident()
        highest = [before]
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        loss(list(range(size))).backward()
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                highest.append(int(line.split()[1]) / 1e3)
    print(json.dumps(max(highest) - before))
    return 0


def _resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1e3
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
