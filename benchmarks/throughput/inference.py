"""Answers and scores of many questions about one picture, and loading, against transformers with the same weights."""

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
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import small_llava
from processes import LEAST, RESULTS, Cost, draw, publish, run, shown, table, versions

Asked = list[tuple[Any, str]]
WORD = "w5"
TARGETS = {"8 questions, 8 new tokens": 4.5, "18 questions, scores": 10.0}
"""Least ratios of Lensmith's last line."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; each runs every variant once")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        numbers, sections, failures = inference(folder, arguments.repeats)
        numbers["load"], section = loading(folder, arguments.repeats, failures)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "inference.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    language, positions = small_llava.LANGUAGE, (small_llava.SIDE // small_llava.PATCH) ** 2
    text = (
        "# Inference\n\n"
        f"`python benchmarks/throughput/inference.py --repeats {arguments.repeats}` with"
        f" {versions('lensmith', 'torch', 'transformers')}.\n\n"
        f"A LLaVA with random weights on the CPU, one thread, float32: {positions} picture positions, a language model"
        f" of {language['num_hidden_layers']} layers {language['hidden_size']} wide, a vocabulary of"
        f" {language['vocab_size']:,}. Both sides start from the opened picture and prepare it by the same code. Ratios"
        f" of CPU time are to transformers in the same round, medians of {arguments.repeats} interleaved rounds with"
        " their range. Every variant of a table gave the same answers, or scores within 0.001.\n\n"
        + "\n\n".join(sections)
        + "\n\nAnswers of one question at a time gain nothing: what is saved is what questions have in common."
        " Questions about different pictures share only a few words, so on the CPU batching them saves little.\n\n"
        + section
    )
    groups = {
        title: {name: (own["range"][0], own["speed"], own["range"][1]) for name, own in found.items()}
        for title, found in numbers.items()
        if title != "load"
    }
    draw("inference", groups, "times transformers one by one")
    return publish("inference", text + "\n\n![ratios](inference.svg)\n", failures)


def inference(folder: Path, rounds: int) -> tuple[dict[str, Any], list[str], list[str]]:
    """Measure answers and scores: numbers, tables, and what was missed."""
    import torch
    from PIL import Image

    import lensmith

    torch.set_num_threads(1)
    model = lensmith.assemble({"model": small_llava.parts(folder)}).eval().requires_grad_(False)
    twin = small_llava.transformers_twin(model, folder)
    model.changed.add("language_model")
    model.save(folder / "artifact")
    twin.save_pretrained(folder / "twin")
    draw = random.Random(0)
    warm = [(Image.new("RGB", (small_llava.SIDE,) * 2), "w1")]
    theirs(model, twin, warm, 2)
    model.generate_batch(warm * 2, lensmith.GenerationOptions(max_new_tokens=2))
    pictures = [Image.effect_noise((small_llava.SIDE,) * 2, 60 + n).convert("RGB") for n in range(8)]

    def ask(count: int, shown: Sequence[Any]) -> Asked:
        words = [" ".join(f"w{draw.randrange(20_000)}" for _ in range(draw.randrange(8, 24))) for _ in range(count)]
        return [(shown[n % len(shown)], text) for n, text in enumerate(words)]

    cases: list[tuple[str, Asked, int]] = [
        ("8 questions, 8 new tokens", ask(8, pictures[:1]), 8),
        ("8 questions, 32 new tokens", ask(8, pictures[:1]), 32),
        ("8 questions on 8 pictures, 8 new tokens", ask(8, pictures), 8),
    ]
    numbers: dict[str, Any] = {}
    sections: list[str] = []
    failures: list[str] = []
    for title, asked, new in cases:
        options = lensmith.GenerationOptions(max_new_tokens=new)
        variants: dict[str, Callable[[], list[Any]]] = {
            "transformers, one by one": lambda a=asked, n=new: [theirs(model, twin, [one], n)[0] for one in a],
            "transformers, 8 padded on the left": lambda a=asked, n=new: [
                said for start in range(0, len(a), 8) for said in theirs(model, twin, a[start : start + 8], n)
            ],
            "Lensmith, one by one": lambda a=asked, o=options: [model.generate(*one, o) for one in a],
            "Lensmith, all at once": lambda a=asked, o=options: model.generate_batch(a, o, batch_size=len(a)),
        }
        numbers[title] = measure(title, variants, rounds, sections, failures, lambda one, other: one == other)
    asked = ask(18, pictures[:1])
    numbers["18 questions, scores"] = measure(
        "18 questions, scores",
        {
            "transformers, one by one": lambda: [their_score(model, twin, *one) for one in asked],
            "Lensmith, one by one": lambda: [model.score([one], [WORD])[0][0].log for one in asked],
            "Lensmith, all at once": lambda: [row[0].log for row in model.score(asked, [WORD])],
        },
        rounds,
        sections,
        failures,
        lambda one, other: all(abs(a - b) < 1e-3 for a, b in zip(one, other, strict=True)),
    )
    return numbers, sections, failures


def measure(
    title: str,
    variants: dict[str, Callable[[], list[Any]]],
    rounds: int,
    sections: list[str],
    failures: list[str],
    same: Callable[[list[Any], list[Any]], bool],
) -> dict[str, Any]:
    """Run a case's variants, the first of them the baseline; adds a table and what was missed."""
    said: dict[str, list[Any]] = {}

    def job(name: str) -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        said[name] = variants[name]()
        return Cost(time.perf_counter() - wall, time.process_time() - cpu, 0.0)

    names = list(variants)
    costs = in_turn([(name, lambda name=name: job(name)) for name in names], rounds)
    base = costs[names[0]]
    lines, numbers = [], {}
    for name in names:
        if not same(said[names[0]], said[name]):
            failures.append(f"{title}: {name} gave something else than {names[0]}")
        ratios = sorted(b.cpu / own.cpu for b, own in zip(base, costs[name], strict=True))
        middle = statistics.median(ratios)
        cpu = statistics.median(cost.cpu for cost in costs[name])
        lines.append((name, f"{cpu:.2f}", f"{middle:.2f}", f"{ratios[0]:.2f} – {ratios[-1]:.2f}"))
        numbers[name] = {"cpu_seconds": cpu, "speed": middle, "range": [ratios[0], ratios[-1]]}
    if middle < TARGETS.get(title, 0):
        failures.append(f"{title}: {middle:.2f} times transformers, less than {TARGETS[title]}")
    sections.append(f"## {title[0].upper()}{title[1:]}\n\n{table(('', 'CPU s', 'speed', 'range'), lines)}")
    return numbers


def in_turn(jobs: Sequence[tuple[str, Callable[[], Cost]]], rounds: int) -> dict[str, list[Cost]]:
    """Every job once a round, each round from another on. A round takes too long for one that is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name, _ in jobs}
    for number in range(rounds):
        shift = number % len(jobs)
        for name, job in [*jobs[shift:], *jobs[:shift]]:
            costs[name].append(job())
    return costs


def theirs(model: Any, twin: Any, asked: Asked, new: int) -> list[str]:
    """Answers of transformers to questions in one batch, the prompts and pictures laid out as ours are."""
    import torch

    ids, mask, pixels = laid_out(model, asked)
    with torch.inference_mode():
        rows = twin.generate(
            input_ids=ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=new, do_sample=False
        )
    end = model.language_model.tokenizer.eos_id
    said = []
    for row in rows[:, ids.shape[1] :].tolist():
        said.append(model.language_model.tokenizer.decode(row[: row.index(end)] if end in row else row).strip())
    return said


def their_score(model: Any, twin: Any, image: Any, prompt: str) -> float:
    """Log-likelihood of the word and the end token, logits of no other positions computed."""
    import torch

    tokenizer = model.language_model.tokenizer
    ids, _, pixels = laid_out(model, [(image, prompt)])
    answer = torch.tensor([[*tokenizer.encode(WORD, after="token").ids, tokenizer.eos_id]])
    with torch.inference_mode():
        whole = torch.cat([ids, answer[:, :-1]], dim=1)
        logits = twin(input_ids=whole, pixel_values=pixels, logits_to_keep=answer.shape[1]).logits
        return float(logits.log_softmax(-1).gather(2, answer[..., None]).sum())


def laid_out(model: Any, asked: Asked) -> tuple[Any, Any, Any]:
    """Ids with transformers' picture token, mask and pixels."""
    import torch

    from lensmith.generation import Question, prepare

    samples = [prepare(model, Question.of(image, prompt)) for image, prompt in asked]
    width = max(len(sample.ids) for sample in samples)
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        start = width - len(sample.ids)
        ids[row, start:] = torch.tensor(sample.ids)
        ids[row, [start + place for place in sample.image_positions]] = twin_picture()
        mask[row, start:] = 1
    return ids, mask, torch.cat([sample.pictures[0].pixels for sample in samples])


def twin_picture() -> int:
    return small_llava.SPECIALS.index(small_llava.IMAGE_TOKEN)


LOAD = """
import json, resource, sys, threading, time
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.001)
import torch
import transformers.models.llava.modeling_llava, transformers.models.llama.modeling_llama
import transformers.models.clip.modeling_clip
from transformers import AutoConfig, LlavaForConditionalGeneration
import lensmith
from lensmith.loading import load
import lensmith_plugins.language_models.hf, lensmith_plugins.vision_encoders.clip, lensmith_plugins.connectors.mlp
from safetensors.torch import load_file
way, folder = sys.argv[1:]
peak, done = [anonymous()], threading.Event()
start = peak[0]
thread = threading.Thread(target=watch); thread.start()
began, cpu = time.perf_counter(), time.process_time()
if way == "lensmith":
    model = load(folder)
elif way == "unchecked":
    model = load(folder, check=False)
elif way == "from_pretrained":
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
else:
    model = LlavaForConditionalGeneration(AutoConfig.from_pretrained(folder))
    kept = load_file(folder + "/model.safetensors")
    own = model.state_dict()
    for (name, tensor), other in zip(sorted(own.items()), [kept[k] for k in sorted(kept)]):
        if tensor.shape == other.shape:
            tensor.copy_(other)
cpu, wall = time.process_time() - cpu, time.perf_counter() - began
done.set(); thread.join()
size = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak[0] - start, "size": size}))
"""


def loading(folder: Path, rounds: int, failures: list[str]) -> tuple[dict[str, Any], str]:
    """Measure loading, each time in a process of its own that has imported everything."""
    if not Path("/proc/self/status").exists():
        return {}, "Loading was not measured: it needs Linux's account of anonymous memory.\n"
    script = folder / "load.py"
    script.write_text(LOAD)
    ways = {
        "build, then copy the weights": ("build", "twin"),
        "transformers, from_pretrained": ("from_pretrained", "twin"),
        "Lensmith, files verified by hash": ("lensmith", "artifact"),
        "Lensmith, check=False": ("unchecked", "artifact"),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}

    def job(name: str) -> Cost:
        way, source = ways[name]
        _, text = run([sys.executable, str(script), way, str(folder / source)], folder)
        found[name].append(json.loads(text.strip().splitlines()[-1]))
        return Cost(found[name][-1]["wall"], found[name][-1]["cpu"], found[name][-1]["peak"])

    in_turn([(name, lambda name=name: job(name)) for name in ways], rounds)
    lines, numbers = [], {}
    for name, results in found.items():
        middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
        numbers[name] = middle
        share = shown(middle["peak"] / middle["size"], LEAST.peak / middle["size"], 2)
        lines.append((name, f"{middle['cpu']:.2f}", shown(middle["peak"], LEAST.peak, 0), share))
    size = numbers["Lensmith, check=False"]["size"]
    if numbers["Lensmith, files verified by hash"]["peak"] > 0.2 * size:
        failures.append("loading takes more than a fifth of the weights' size in anonymous memory")
    text = (
        f"## Loading {size:.0f} MB of weights\n\n{table(('', 'CPU s', 'peak MB', 'of the size'), lines)}\n\n"
        "Anonymous memory (Linux's RssAnon, read every millisecond) at its peak above what the process had after all"
        " imports; pages of the mapped files are not counted, they are the page cache's. What Lensmith's lines show is"
        " tokenizer, manifest, the small parts and their preparation, not weights. The file is in the page cache.\n"
    )
    return numbers, text


if __name__ == "__main__":
    sys.exit(main())
