"""SEED-Bench 1, as LLaVA counts letters."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensmith import Benchmark, DataError
from lensmith.evaluation.files import Line, PictureFolder, Reader, find, keyed, named, read_json, require
from lensmith.evaluation.matching import Reading, by_question, tell_readings
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks import lenient
from lensmith_plugins.benchmarks.llava_questions import question_items, question_lines
from lensmith_plugins.benchmarks.specs import SeedSpec
from lensmith_plugins.benchmarks.texts import LETTER, ask, without

_FILES = ("SEED-Bench.json", "SEED*.json")
_LLAVA = ("llava-seed-bench.jsonl", "llava_seed*.jsonl", "llava_question_file.jsonl")
_LETTERS = "ABCD"
_SHOWN = {"data_id": (str, int)} | {f"choice_{letter.lower()}": (str, int, float) for letter in _LETTERS}
"""What the model is shown, besides what scoring needs."""
_is_upload = keyed("question_id", "prediction")


def _upload(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    if not _is_upload(lines):
        return None
    rows = []
    for line in lines:
        value = require(line, {"question_id": (str, int), "prediction": str}, "an upload of SEED-Bench")
        rows.append(Prediction(value["question_id"], value["prediction"], place=line.place, data=value))
    return rows


class Seed(Benchmark):
    """SEED-Bench 1 (Li et al. 2023, arXiv 2307.16125): accuracy over pictures and the middle frames of videos."""

    spec: SeedSpec

    @property
    def suffix(self) -> str:  # type: ignore[override]
        """LLaVA's sentence where the model says a letter."""
        return LETTER if self.spec.answers == "letter" else ""

    read = Reader({"upload": _upload}, described="the upload, {question_id, prediction} a line")

    def items(self, data: Path, images: Path) -> list[Item]:
        """LLaVA's question file where it is; else the questions of the official file, video frames by their ids."""
        by_letter = self.spec.answers == "letter"
        if by_letter and (lines := question_lines(data, *_LLAVA)):
            return question_items(lines, images)
        questions, types = _questions(data)
        pictures = PictureFolder(images)
        items = []
        for question in questions:
            require(Line(question, f"question {question['question_id']}"), _SHOWN, "a question of SEED-Bench")
            options = [question[f"choice_{letter.lower()}"] for letter in _LETTERS]
            name = str(question["data_id"]) if question["data_type"] == "image" else f"{question['question_id']}.png"
            lettered = dict(zip(_LETTERS, map(str, options), strict=True))
            listed = [f"{letter}. {option}" for letter, option in lettered.items()]
            items.append(
                Item(
                    question["question_id"],
                    ask("\n".join([question["question"], *listed]), LETTER) if by_letter else question["question"],
                    (pictures(name),),
                    question["answer"],
                    types[question["question_type_id"]],
                    candidates={} if by_letter else lettered,
                    per_token=self.spec.answers == "likelihood_per_token",
                )
            )
        return items

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Percent of all questions; one without an answer is wrong."""
        questions, types = _questions(data)
        notes: list[str] = []
        # LLaVA looks ids that are digits up as numbers.
        given = by_question(predictions.rows, [_key(question["question_id"]) for question in questions], notes)
        if predictions.partial:
            questions = [question for question in questions if _key(question["question_id"]) in given]
        missing = [q["question_id"] for q in questions if _key(q["question_id"]) not in given]
        if missing:
            notes.append(f"{len(missing)} questions without an answer, wrong: {named(missing)}")
        by_type: dict[str, list[float]] = {name: [] for name in types.values()}
        by_kind: dict[str, list[float]] = defaultdict(list)
        samples = []
        readings = []
        for question in questions:
            row = given.get(_key(question["question_id"]))
            reply = row.text if row else ""
            read_as = reply[:1].upper() if self.spec.matching == "first_letter" else reply
            meant = lenient.letter_of(reply, _options(question))
            readings.append(Reading(question["question_id"], reply, read_as if read_as in _LETTERS else "", meant))
            read_as = meant if self.spec.reading == "lenient" else read_as
            right = float(read_as == question["answer"])
            by_type[types[question["question_type_id"]]].append(right)
            by_kind[question["data_type"]].append(right)
            samples.append(
                SampleScore(
                    question["question_id"],
                    right,
                    reply,
                    read_as if read_as and read_as in _LETTERS else "none",
                    question["answer"],
                    without(row.prompt, LETTER) if row and row.prompt else question["question"],
                    types[question["question_type_id"]],
                )
            )
        is_lenient = self.spec.reading == "lenient"
        tell_readings(readings, notes, what="an option", fate="wrong", lenient=is_lenient)
        scores = [sample.score or 0.0 for sample in samples]
        metrics: dict[str, Any] = {"accuracy": _percent(scores)}
        metrics |= {kind: _percent(values) for kind, values in by_kind.items()}
        metrics["types"] = {name: _percent(values) for name, values in by_type.items() if values}
        quantities = [mean("accuracy", scores)] + [mean(kind, values) for kind, values in by_kind.items()]
        return Scores("accuracy", metrics, samples, quantities, notes)

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """The leaderboard's lines."""
        questions, _ = _questions(data)
        rows = by_question(predictions.rows, [_key(question["question_id"]) for question in questions], [])
        given = {identity: row.text for identity, row in rows.items()}
        if missing := [q["question_id"] for q in questions if _key(q["question_id"]) not in given]:
            raise DataError(f"{len(missing)} questions have no answer: {named(missing)}; the upload needs them all")
        path = folder / "seed_upload.jsonl"
        lines = [{"question_id": q["question_id"], "prediction": given[_key(q["question_id"])]} for q in questions]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return [path]


def _options(question: dict[str, Any]) -> dict[str, str]:
    return {letter: str(question.get(f"choice_{letter.lower()}") or "") for letter in _LETTERS}


def _key(identity: Any) -> Any:
    return int(identity) if isinstance(identity, str) and identity.isdigit() else identity


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


def _questions(data: Path) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Questions, and the names of their types by number."""
    path = find(data, "the questions of SEED-Bench", *_FILES)
    document = read_json(path)
    if not isinstance(document, dict) or not {"questions", "question_type"} <= document.keys():
        raise DataError(f"{path}: no `questions` and `question_type`, as SEED-Bench.json has")
    kinds = {"questions": list, "question_type": dict}
    require(Line(document, str(path)), kinds, "SEED-Bench.json")
    if not document["questions"]:
        raise DataError(f"{path}: holds no questions")
    types = {number: name for name, number in document["question_type"].items() if isinstance(number, int)}
    keys = {"question_id": (str, int), "question_type_id": int, "data_type": str, "answer": str, "question": str}
    questions = [
        require(Line(question, f"{path}, question {number}"), keys, "a question of SEED-Bench")
        for number, question in enumerate(document["questions"], 1)
    ]
    for number, question in enumerate(questions, 1):
        if question["question_type_id"] not in types:
            raise DataError(
                f"{path}, question {number}: its question_type_id {question['question_type_id']} is not among the types"
                f" ({named(sorted(types), 20)})"
            )
    if len({str(question["question_id"]) for question in questions}) < len(questions):
        raise DataError(f"{path}: an id comes a second time among the questions")
    return questions, types
