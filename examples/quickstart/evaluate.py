"""Evaluate the quickstart's model on pictures it never saw: by task, against itself without the picture and untrained.

Reads `heldout.jsonl` (made by prepare.py) and the run's last artifact. Writes to the run's folder `metrics.json`,
`loss.png` and `contact_sheet.png`, and prints the table. An answer counts when it equals the expected one exactly,
but for case and a final full stop; of an answer in steps, what follows the last comma.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPEC = Path(__file__).parent / "digits.yaml"
SWAP = "model.connector={name: mlp}"
"""One override that puts another part in: LLaVA-1.5's connector, which keeps all tokens of the encoder."""
CONDITIONS = ("trained", "blind", "untrained")
"""The trained model; the same without the picture; the assembled model before any training."""


def main() -> None:
    """Read the command line and evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--run", type=Path, default=Path("examples/quickstart/runs/quickstart"), help="folder of the run"
    )
    parser.add_argument("--work", type=Path, default=Path("examples/quickstart/work"), help="folder of prepare.py")
    parser.add_argument("--spec", type=Path, default=SPEC, help="what the run trained")
    parser.add_argument("--untrained", type=int, default=5, help="questions a task for the model before training")
    parser.add_argument("--limit", type=int, default=None, help="questions a task, for a quick look")
    parser.add_argument("--batch", type=int, default=16, help="questions answered at once")
    arguments = parser.parse_args()

    import lensmith

    questions = read_questions(arguments.work / "heldout.jsonl", arguments.limit)
    spec = lensmith.load_spec(arguments.spec)
    artifact = arguments.run / list(spec.stages)[-1]
    began = time.perf_counter()
    trained = lensmith.load(artifact, merge=True)
    answers = {
        "trained": ask(trained, questions, arguments.work, arguments.batch),
        "blind": ask(trained, questions, None, arguments.batch),
    }
    del trained
    few = [q for task in tasks(questions) for q in of_task(questions, task)[: arguments.untrained]]
    answers["untrained"] = ask(lensmith.assemble(spec), few, arguments.work, arguments.batch)
    seconds = time.perf_counter() - began

    metrics = score(questions, few, answers)
    metrics["seconds"] = round(seconds, 1)
    (arguments.run / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    plot_losses(arguments.run, list(spec.stages), arguments.run / "loss.png")
    contact_sheet(questions, answers["trained"], arguments.work, arguments.run / "contact_sheet.png")
    print(table(metrics))
    print(f"\n{len(questions)} held-out questions in {seconds:.0f} s; written: {arguments.run}/metrics.json,")
    print(f"{arguments.run}/loss.png, {arguments.run}/contact_sheet.png\n")
    print(swap(arguments.spec, arguments.run))


def read_questions(path: Path, limit: int | None) -> list[dict[str, Any]]:
    """The held-out questions, at most `limit` a task."""
    if not path.is_file():
        sys.exit(f"{path} does not exist; run examples/quickstart/prepare.py first")
    questions = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [q for task in tasks(questions) for q in of_task(questions, task)[:limit]]


def tasks(questions: Sequence[dict[str, Any]]) -> list[str]:
    """Task names in the order of the file."""
    return list(dict.fromkeys(question["task"] for question in questions))


def of_task(questions: Sequence[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """The questions of one task."""
    return [question for question in questions if question["task"] == task]


def ask(model: Any, questions: Sequence[dict[str, Any]], work: Path | None, batch: int) -> list[str]:
    """Greedy answers; without `work` the questions are put without their pictures."""
    from lensmith import GenerationOptions

    asked = [(work / "images" / q["image"] if work is not None else None, q["question"]) for q in questions]
    answers: list[str] = model.generate_batch(asked, GenerationOptions(max_new_tokens=64), batch)
    return answers


def right(question: dict[str, Any], answer: str) -> bool:
    """Whether an answer is the expected one."""

    def end(text: str) -> str:
        return text.rsplit(",", 1)[-1].strip().removesuffix(".").lower()

    return end(answer) == end(question["answer"])


def score(
    questions: Sequence[dict[str, Any]], few: Sequence[dict[str, Any]], answers: dict[str, list[str]]
) -> dict[str, Any]:
    """Accuracy by condition and task, with 95 % Wilson intervals."""
    result: dict[str, Any] = {"tasks": {}}
    for task in tasks(questions):
        entry: dict[str, Any] = {"chance": of_task(questions, task)[0].get("chance", "")}
        for condition in CONDITIONS:
            asked = few if condition == "untrained" else questions
            marks = [right(q, a) for q, a in zip(asked, answers[condition], strict=True) if q["task"] == task]
            low, high = wilson(sum(marks), len(marks))
            accuracy = sum(marks) / len(marks)
            entry[condition] = {"right": sum(marks), "of": len(marks), "accuracy": accuracy, "ci95": [low, high]}
        entry["above_blind"] = entry["trained"]["ci95"][0] > entry["blind"]["ci95"][1]
        result["tasks"][task] = entry
    return result


def wilson(right_answers: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
    share = right_answers / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def table(metrics: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = ["| task | trained (95 % CI) | blind | untrained | chance |", "|---|---|---|---|---|"]
    for task, entry in metrics["tasks"].items():
        trained, blind, untrained = (entry[condition] for condition in CONDITIONS)
        low, high = trained["ci95"]
        lines.append(
            f"| {task} | {trained['right']}/{trained['of']} = {trained['accuracy']:.0%} ({low:.0%}–{high:.0%})"
            f" | {blind['accuracy']:.0%} | {untrained['accuracy']:.0%} | {entry['chance']} |"
        )
    return "\n".join(lines)


def swap(file: Path, run: Path) -> str:
    """What one override would change: from the plans of both, which read config files and headers alone."""
    import lensmith

    spec = lensmith.load_spec(file)
    plans = [lensmith.plan(spec), lensmith.plan(lensmith.load_spec(file, [SWAP]))]
    tokens = [plan.dimensions.connector.tokens for plan in plans]
    sizes = [plan.parameters["connector"] for plan in plans]
    steps = [(line, spec.stages[stage].batch.size) for stage in spec.stages for line in metrics_of(run, stage)]
    minutes = sum(line["seconds"] for line, _ in steps) / 60
    length = sum(line["tokens"] for line, _ in steps) / sum(rows for _, rows in steps)
    shorter = length - tokens[0] + tokens[1]
    return (
        "Swap a part with one override, here the connector (`lensmith list` has the others):\n"
        f"  lensmith train {file} '{SWAP}' --output {run.parent / 'swapped'}\n"
        f"A picture then takes {tokens[1]} positions instead of {tokens[0]}, a row {shorter:.0f} instead of"
        f" {length:.0f}, and the connector has {sizes[1]:,} parameters instead of {sizes[0]:,}: about"
        f" {minutes * shorter / length:.0f} minutes of training instead of {minutes:.0f}."
    )


def metrics_of(run: Path, stage: str) -> list[dict[str, Any]]:
    """The lines that a stage's steps left."""
    text = (run / "metrics" / f"{stage}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def plot_losses(run: Path, stages: Sequence[str], target: Path) -> None:
    """Loss over the steps of all stages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    offset = 0
    for stage in stages:
        lines = metrics_of(run, stage)
        axes.plot([offset + line["step"] for line in lines], [line["loss"] for line in lines], label=stage)
        offset += len(lines)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss per supervised token")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    pyplot.close(figure)


def contact_sheet(questions: Sequence[dict[str, Any]], answers: Sequence[str], work: Path, target: Path) -> None:
    """Pictures with question, answer and right or wrong: a few of each task, mistakes among them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    chosen: list[tuple[dict[str, Any], str]] = []
    for task in tasks(questions):
        pairs = [(q, a) for q, a in zip(questions, answers, strict=True) if q["task"] == task]
        wrong = [pair for pair in pairs if not right(*pair)]
        chosen += [*[pair for pair in pairs if right(*pair)][:3], *wrong[:1]]
    columns = 8
    rows = math.ceil(len(chosen) / columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(2.1 * columns, 2.9 * rows), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (question, answer) in zip(grid.flat, chosen, strict=False):
        axes.imshow(Image.open(work / "images" / question["image"]))
        mark = "right" if right(question, answer) else f"wrong, it is: {question['answer']}"
        text = question["question"].split("\n")[0]
        color = "#116611" if mark == "right" else "#aa1111"
        axes.set_title(f"{wrap(text)}\n-> {wrap(answer)}\n({mark})", fontsize=8, color=color)
    figure.tight_layout()
    figure.savefig(target, dpi=100)
    pyplot.close(figure)


def wrap(text: str, width: int = 30) -> str:
    """Break a line for a caption."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width)) or "(nothing)"


if __name__ == "__main__":
    main()
