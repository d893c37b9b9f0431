"""Full tuning on a GPU: useful tokens a second and MFU of 1B- and 7B-shaped models, against transformers' LLaVA."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import small_llava
from feature_cache import write_rows
from processes import publish, table, versions
from training import padded_loss

SHARED = {"vocab_size": 32_000, "max_position_embeddings": 4096, "tie_word_embeddings": False}
CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "try": (small_llava.LANGUAGE | {"num_hidden_layers": 2}, {}),
    "1B": (
        SHARED
        | {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
        | {"num_attention_heads": 32, "num_key_value_heads": 4},
        CLIP_L,
    ),
    "7B": (
        SHARED
        | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
        | {"num_attention_heads": 32, "num_key_value_heads": 32},
        CLIP_L,
    ),
}
"""TinyLlama's and LLaMA-7B's sizes with CLIP ViT-L/14 at 336 px; `try` is small, to see on a CPU that this runs."""


@dataclass(frozen=True)
class Step:
    """One forward and backward pass of a batch."""

    seconds: float
    tokens: int
    flops: float
    gigabytes: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=8, help="batches that every variant takes once")
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch")
    parser.add_argument("--shapes", default="1B,7B", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with `--shapes try`")
    parser.add_argument("--peak", type=float, help="dense bf16 FLOP/s of the device; by default known ones")
    arguments = parser.parse_args()
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("this needs a CUDA GPU (80 GB for 7B); there is none here, so nothing was measured")
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "a CPU"
    peak = arguments.peak or known_peak(name)
    sections = []
    for shape in arguments.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            sections.append(measure(Path(folder), shape, arguments.repeats, arguments.rows, arguments.device, peak))
    text = (
        f"# Training on {name}\n\n"
        f"`python benchmarks/throughput/gpu.py --repeats {arguments.repeats} --rows {arguments.rows}` with"
        f" {versions('lensmith', 'torch', 'transformers')}.\n\n"
        "Forward and backward of a batch, language model and connector training, the encoder frozen, bf16, lengths as"
        " uneven as the 665K mixture's, activations computed again in both. Useful tokens (not padding) a second over"
        f" the padded baseline's in the same round, medians of {arguments.repeats} interleaved rounds. MFU counts"
        " useful tokens alone, and nothing that is computed twice.\n\n" + "\n\n".join(sections) + "\n"
    )
    if "try" in arguments.shapes.split(","):
        print(text)
        return 0
    return publish("throughput_gpu", text, [])


def known_peak(name: str) -> float | None:
    """Of the GPUs that plans know, by a part of the device's name."""
    from lensmith.planning.hardware import KNOWN

    return next((gpu.flops for key, gpu in KNOWN.items() if key.split("-")[0].upper() in name.upper()), None)


def measure(folder: Path, shape: str, repeats: int, size: int, device: str, peak: float | None) -> str:
    """A table for one shape."""
    import torch

    from lensmith import parts
    from lensmith.assembly import assemble
    from lensmith.data.batch import collate, pack
    from lensmith.data.reader import RowReader
    from lensmith.data.sources import Mixture
    from lensmith.planning.cost import training_flops
    from lensmith.spec.build import load_spec
    from lensmith.training import distributed

    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    distributed.start()
    language, vision = SHAPES[shape]
    small_llava.VISION |= vision
    write_rows(folder, (repeats + 2) * size)
    with torch.device(device):
        model_spec = small_llava.parts(folder, language, torch.bfloat16)
    stage = {"tuner": "full", "data": {"sources": [str(folder / "rows.jsonl")]}, "precision": "bf16"}
    spec = load_spec({"model": model_spec, "stages": {"tune": stage}})
    model = assemble(spec).to(device, torch.bfloat16).train()
    twin = small_llava.transformers_twin(model, folder, share=True).to(device, torch.bfloat16).train()
    for each, encoder in ((model, model.vision_encoder), (twin, twin.model.vision_tower)):
        each.requires_grad_(True)
        encoder.requires_grad_(False)
    model.language_model.checkpoint_activations()
    twin.model.language_model.activation_checkpointing_enable()
    template = parts.conversation(spec.model, spec.stages["tune"])
    data = Mixture(spec.stages["tune"].data)
    reader = RowReader(data, template, model.language_model.tokenizer, 2048, model.pictures)
    pad = model.language_model.tokenizer.pad_id
    declared = model.language_model.shape, model.vision_encoder.shape

    def flops(samples: Sequence[Any]) -> float:
        each = [(len(sample.ids), sum(p.layout.views for p in sample.pictures)) for sample in samples]
        return sum(training_flops(*declared, positions=t, views=v, adapters=0, full=True) for t, v in each)

    def padded(samples: Sequence[Any]) -> Any:
        return padded_loss(twin, collate(samples, pad).to(device))

    def packed(samples: Sequence[Any]) -> Any:
        batch = pack([samples], pad).to(device)
        return model(batch, dummy_picture=True) / batch.target_count

    variants: dict[str, Callable[[Sequence[Any]], Any]] = {"transformers, padded": padded, "Lensmith": packed}
    taken: dict[str, list[Step]] = {name: [] for name in variants}
    losses: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(-2, repeats):
        rows = range((number + 2) * size, (number + 3) * size)
        samples = [reader.sample(row) for row in rows]
        for name in [*variants][:: 1 if number % 2 else -1]:
            step, loss = timed(variants[name], samples, device, flops(samples))
            if number >= 0:  # the first rounds warm up
                taken[name].append(step)
                losses[name].append(loss)
            model.zero_grad(set_to_none=True)
            twin.zero_grad(set_to_none=True)
        print(f"\r{shape}: round {number + 1} of {repeats}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    base = taken["transformers, padded"]
    lines = []
    for name, steps in taken.items():
        ratio = sorted(b.seconds / s.seconds for s, b in zip(steps, base, strict=True))
        used = statistics.median(s.flops / s.seconds for s in steps)
        speed = statistics.median(s.tokens / s.seconds for s in steps)
        middle = statistics.median(ratio)
        row = (name, f"{speed:,.0f}", f"{middle:.2f}", f"{ratio[0]:.2f} to {ratio[-1]:.2f}")
        lines.append((*row, f"{100 * used / peak:.0f} %" if peak else "-", f"{max(s.gigabytes for s in steps):.1f}"))
    ours, theirs = losses["Lensmith"], losses["transformers, padded"]
    apart = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    return (
        f"## {shape}\n\n{table(('', 'tokens/s', 'speed', 'range', 'MFU', 'peak GB'), lines)}\n\n"
        f"Losses are at most {apart:.1e} apart, relatively."
    )


def timed(
    loss: Callable[[Sequence[Any]], Any], samples: Sequence[Any], device: str, flops: float
) -> tuple[Step, float]:
    """One pass, the device waited for."""
    import torch

    cuda = device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    value = loss(samples)
    value.backward()
    if cuda:
        torch.cuda.synchronize()
    took = time.perf_counter() - start
    most = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
    return Step(took, sum(len(sample.ids) for sample in samples), flops, most), float(value.detach())


if __name__ == "__main__":
    sys.exit(main())
