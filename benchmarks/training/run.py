"""What a training step costs: tuners x ZeRO stages on a tiny model; with `--seven-b`, LoRA and QLoRA of 7B on a GPU."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import material
from processes import LEAST, RESULTS, Cost, interleave, median, publish, shown, table, times, versions

TINY_VISION = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 112,
    "patch_size": 14,
}
TINY_LANGUAGE = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
TUNERS: dict[str, Any] = {
    "full": {"name": "full"},
    "frozen": {"name": "frozen"},
    "lora": {"name": "lora", "rank": 8},
    "qlora": {"name": "qlora", "rank": 8},
}
ZERO = (0, 2, 3)
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 products a second that the maker states, by a part of the device's name."""


def main() -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="rounds; each trains with every combination once")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps of a run; the first is not counted")
    parser.add_argument("--seven-b", action="store_true", help="instead: a 7B model with random weights, on a GPU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return (seven_b if arguments.seven_b else tiny)(Path(temporary), arguments)


def tiny(folder: Path, arguments: argparse.Namespace) -> int:
    os.environ["DS_ACCELERATOR"] = "cpu"
    model = in_child(lambda: material.parts(folder, TINY_VISION, TINY_LANGUAGE, dtype="float32", device="cpu"))
    rows = material.rows(folder, 64, 112, words=60)
    names = [name for name in TUNERS if name != "qlora" or find_spec("bitsandbytes")]
    # Four-bit weights cannot be sharded, so QLoRA has no ZeRO-3.
    cells = [(name, zero) for name in names for zero in ZERO if (name, zero) != ("qlora", 3)]
    import_all()

    def job(name: str, zero: int) -> Cost:
        stage = {"tuner": TUNERS[name], "batch": {"size": 8, "micro": 4}, "deepspeed": {"zero": zero}}
        return in_child(partial(measure, spec_of(model, rows, stage, "fp32"), folder, arguments.steps))[0]

    jobs: list[tuple[str, Callable[[], Cost]]] = [(f"{n} {z}", partial(job, n, z)) for n, z in cells]
    costs = interleave(jobs, arguments.repeats)
    base = costs["full 0"]
    lines, failures, numbers = [], [], {}
    for name, zero in cells:
        own = costs[f"{name} {zero}"]
        time_ratio = statistics.median(a.cpu / b.cpu for a, b in zip(own, base, strict=True))
        peaks = times([cost.peak for cost in own], [cost.peak for cost in base], LEAST.peak)
        peak_ratio = peaks.middle
        middle = median(own)
        lines.append(
            (
                name,
                str(zero),
                f"{1000 * middle.cpu:.0f}",
                f"{time_ratio:.2f}",
                shown(middle.peak, LEAST.peak, 0),
                f"{'> ' * peaks.bound}{peak_ratio:.2f}",
            )
        )
        numbers[f"{name}/zero-{zero}"] = {
            "step_cpu_seconds": middle.cpu,
            "step_wall_seconds": middle.wall,
            "step_ratio": time_ratio,
            "peak_megabytes": middle.peak,
            "peak_ratio": peak_ratio,
        }
        if name in ("frozen", "lora") and zero == 0 and time_ratio > 1.1:
            failures.append(f"{name} takes {time_ratio:.2f} times full's step, more than 1.1")
        if name == "frozen" and zero == 0 and peak_ratio > 1.0:
            failures.append(f"{name} takes {peak_ratio:.2f} times full's memory, more than 1.0")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "training.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    header = ("tuner", "ZeRO", "step, CPU ms", "ratio", "peak MB", "ratio")
    text = (
        "# Training step\n\n"
        f"`python benchmarks/training/run.py --repeats {arguments.repeats} --steps {arguments.steps}` with"
        f" {versions('lensmith', 'torch', 'transformers', 'deepspeed', 'peft')}.\n\n"
        f"{table(header, lines)}\n\n"
        f"Medians of {arguments.repeats} interleaved rounds, one process each, one rank, one thread, float32; ratios to"
        " `full` with ZeRO-0 in the same round. A language model of 6 layers 256 wide, an encoder of 4 layers 128 wide,"
        " 8 rows a step of 64 picture and about 70 text positions. The step is the median of a run's steps but the"
        " first, with reading its rows; the peak is the resident memory that the run adds to a process with the large"
        " libraries imported (some 60 MB in every line are late imports and the weights), before the artifact is"
        " written.\n\nLimits, with ZeRO-0: `frozen` and `lora` at most 1.1 times full's step, `frozen` at most its"
        " memory. LoRA was expected to stay below full's memory too and does not at this size, in repeated runs, so"
        " no limit is set; the cause was not looked for, and nothing follows for large models.\n\n"
        "One rank shards nothing: ZeRO's lines are what its machinery costs, not what it saves."
        " QLoRA's four-bit products are computed by the CPU here, which says nothing about a GPU.\n"
    )
    return publish("training", text, failures)


def seven_b(folder: Path, arguments: argparse.Namespace) -> int:
    import torch

    if not torch.cuda.is_available():
        sys.exit("--seven-b needs a CUDA GPU with 24 GB or more; there is none here, so nothing was measured")
    from lensmith.planning import plan
    from lensmith.spec.build import load_spec

    recipe = load_spec("llava-1.5-7b").model
    vision, language = (json.loads(part.config.read_text()) for part in (recipe.vision_encoder, recipe.language_model))
    model = material.parts(folder, vision, language, dtype="bfloat16", device="cuda")
    rows = material.rows(folder, 256, vision["image_size"], words=400)
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in torch.cuda.get_device_name()), None)
    lines = []
    for name in ("lora", "qlora"):
        stage = {
            "tuner": {"name": name, "rank": 64},
            "batch": {"size": 16, "micro": 4, "packing": True},
            "activation_checkpointing": True,
            "deepspeed": {"zero": 2},
        }
        spec = spec_of(model, rows, stage, "bf16")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        cost, tokens = measure(spec, folder, arguments.steps)
        memory = torch.cuda.max_memory_allocated() / 1e9
        planned = plan(spec).stages[0].flops_per_row  # of a row of other length: by positions, without recomputation
        positions = 576 + 256
        used = tokens / cost.wall * planned / positions
        mfu = f"{100 * used / peak:.0f} %" if peak else "unknown device"
        lines.append((name, f"{tokens / cost.wall:,.0f}", mfu, f"{memory:.1f}"))
    text = (
        "# Training step, 7B\n\n"
        f"`python benchmarks/training/run.py --seven-b --steps {arguments.steps}` on {torch.cuda.get_device_name()}"
        f" with {versions('lensmith', 'torch', 'transformers', 'deepspeed', 'peft', 'bitsandbytes')}.\n\n"
        f"{table(('tuner', 'tokens/s', 'MFU', 'peak GB'), lines)}\n\n"
        "The sizes of the recipe `llava-1.5-7b` with random weights; rank 64 on all linear layers, bf16, packed rows of"
        " one picture, activations computed again (which MFU does not count), one GPU. One run each.\n"
    )
    return publish("training-7b", text, [])


def spec_of(model: Mapping[str, Any], rows: Path, stage: Mapping[str, Any], precision: str) -> dict[str, Any]:
    common = {"data": {"sources": [str(rows)]}, "lr": 1e-4, "precision": precision}
    return {"model": model, "stages": {"only": {**common, **stage}}}


def measure(spec: dict[str, Any], folder: Path, steps: int) -> tuple[Cost, float]:
    """Train in this process: a step's median cost and its tokens."""
    import lensmith
    from lensmith.training.progress import Metrics

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stamps: list[tuple[float, float, int, int]] = []
    write = Metrics.write

    def stamped(self: Metrics, entry: dict[str, Any]) -> None:
        write(self, entry)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stamps.append((time.perf_counter(), time.process_time(), entry["tokens"], peak))

    Metrics.write = stamped  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            lensmith.train(spec, output=Path(output) / "run", max_steps=steps)
    finally:
        Metrics.write = write  # type: ignore[method-assign]
    walls, cpus = ([b[i] - a[i] for a, b in pairwise(stamps)] for i in (0, 1))
    unit = 1e6 if sys.platform == "darwin" else 1e3
    tokens = statistics.median(stamp[2] for stamp in stamps[1:])
    return Cost(statistics.median(walls), statistics.median(cpus), (stamps[-1][3] - before) / unit), tokens


def import_all() -> None:
    """What every run needs, imported once; a child inherits it and its memory starts there."""
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.clip.modeling_clip
    import transformers.models.llama.modeling_llama  # noqa: F401

    if find_spec("bitsandbytes"):
        import bitsandbytes  # noqa: F401


def in_child(action: Callable[[], Any]) -> Any:
    """The result of a forked process of its own, quiet.

    Raises:
        SystemExit: it failed, with what it said.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def body() -> None:
        with tempfile.TemporaryFile("w+") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            try:
                theirs.send((True, action()))
            except BaseException as error:
                said.seek(0)
                theirs.send((False, f"{said.read()[-3000:]}\n{type(error).__name__}: {error}"))
        os._exit(0)

    process = context.Process(target=body)
    process.start()
    theirs.close()
    try:
        good, result = ours.recv()
    except EOFError:
        good, result = False, "it died"
    process.join()
    if not good:
        sys.exit(str(result))
    return result


if __name__ == "__main__":
    sys.exit(main())
