"""What the model is asked, and what its answers are worth. Imported when the benchmark is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lensmith import Benchmark
from lensmith.evaluation.files import PictureFolder, Reader, find, named, read_json_lines, require
from lensmith.evaluation.matching import by_question, tell_near
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Judge, Predictions, SampleScore, Scores

from .spec import ExamplePartSpec


class ExamplePartBenchmark(Benchmark):
    """See `ExamplePartSpec`."""

    spec: ExamplePartSpec
    max_new_tokens = 16
    read = Reader()  # LLaVA's answer lines; forms of your own are functions that this takes

    @property
    def suffix(self) -> str:  # type: ignore[override]
        """Told beside the scores."""
        return self.spec.suffix

    def items(self, data: Path, images: Path) -> list[Item]:
        """All questions, in the order in which their answers are scored."""
        pictures = PictureFolder(images)
        found = []
        for row in _rows(data):
            prompt = "\n".join([row["question"], *([self.spec.suffix] if self.spec.suffix else [])])
            shown = (pictures(row["image"]),) if row.get("image") else ()
            found.append(Item(row["id"], prompt, shown, row["answer"]))
        return found

    def score(self, predictions: Predictions, data: Path, judge: Judge | None = None) -> Scores:
        """Percent; what is missing is wrong and told."""
        rows = _rows(data)
        notes: list[str] = []
        given = by_question(predictions.rows, [row["id"] for row in rows], notes)  # tells what is doubled or foreign
        if predictions.partial:  # a run with --limit: what was not asked does not count
            rows = [row for row in rows if row["id"] in given]
        if missing := [row["id"] for row in rows if row["id"] not in given]:
            notes.append(f"{len(missing)} questions without an answer, wrong: {named(missing)}")
        samples = []
        for row in rows:
            reply = given[row["id"]].text if row["id"] in given else ""
            told = reply.strip().rstrip(".").lower()
            right = float(told == row["answer"].lower())
            samples.append(SampleScore(row["id"], right, reply, told, row["answer"], row["question"]))
        tell_near(samples, notes)
        scores = [sample.score or 0.0 for sample in samples]
        metrics = {"accuracy": 100 * sum(scores) / len(scores)}
        return Scores("accuracy", metrics, samples, [mean("accuracy", scores)], notes)


def _rows(data: Path) -> list[dict[str, Any]]:
    """Rows of the official file; a mistake is an error with its line."""
    keys = {"id": (int, str), "question": str, "answer": str}
    path = find(data, "the questions", "questions.jsonl", "*.jsonl")
    return [require(line, keys, "a row") for line in read_json_lines(path)]
