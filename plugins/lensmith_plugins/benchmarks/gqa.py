"""GQA, as the official tool scores what LLaVA's converter writes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensmith import Benchmark, DataError
from lensmith.evaluation.files import Line, PictureFolder, Reader, find, keyed, named, read_json, require
from lensmith.evaluation.matching import by_question, tell_near
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks.llava_questions import question_items, question_lines
from lensmith_plugins.benchmarks.specs import GqaSpec
from lensmith_plugins.benchmarks.texts import SHORT, ask

_QUESTIONS = ("testdev_balanced_questions.json", "*_balanced_questions.json", "*questions.json")
_LLAVA = ("llava_gqa_*.jsonl", "llava_question_file.jsonl")
_NOT_STEPS = ("exist", "query: name", "choose name")
_COMMON = {"color", "material", "shape"}
_is_result = keyed("questionId", "prediction")


def _results(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    if not isinstance(document, list) or not _is_result(lines):
        return None
    rows = []
    for line in lines:
        value = require(line, {"questionId": (str, int), "prediction": str}, "a prediction of GQA")
        rows.append(Prediction(str(value["questionId"]), value["prediction"], place=line.place, data=value))
    return rows


class Gqa(Benchmark):
    """GQA (Hudson and Manning 2019, arXiv 1902.09506): exact match of one answer."""

    spec: GqaSpec
    suffix = SHORT
    read = Reader({"results": _results}, described="the official predictions [{questionId, prediction}, …]")

    def items(self, data: Path, images: Path) -> list[Item]:
        """The balanced questions in the order of their file, or LLaVA's question file where that is all there is."""
        if lines := question_lines(data, *_LLAVA):
            return question_items(lines, images)
        pictures = PictureFolder(images)
        return [
            Item(
                identity,
                ask(question["question"], SHORT),
                (pictures(f"{_picture_of(identity, question)}.jpg"),),
                question["answer"],
                question["types"]["structural"],
            )
            for identity, question in _questions(data).items()
            if question["isBalanced"] or self.spec.consistency
        ]

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Percent; `distribution` in the tool's own unit, where less is better."""
        questions = _questions(data)
        notes: list[str] = []
        given = by_question(predictions.rows, questions, notes, what="predictions")
        asked = [i for i, question in questions.items() if question["isBalanced"] or self.spec.consistency]
        missing = [identity for identity in asked if identity not in given]
        if missing and not predictions.partial:
            raise DataError(
                f"{len(missing)} questions have no prediction: {named(missing)}; GQA scores whole files only"
            )
        convert = _converted if predictions.form == "llava" and self.spec.upload == "llava" else str
        replies = {identity: convert(given[identity].text) for identity in questions if identity in given}
        choices = _choices(data) if self.spec.choices else None
        lists: dict[str, list[float]] = {name: [] for name in ("accuracy", "binary", "open")}
        groups: dict[str, dict[Any, list[float]]] = {
            name: defaultdict(list) for name in ("structural", "semantic", "steps", "words")
        }
        extra: dict[str, list[float]] = {"validity": [], "plausibility": [], "consistency": []}
        samples = []
        for identity, question in questions.items():
            if identity not in replies:
                continue
            right = float(replies[identity] == question["answer"])
            types = question["types"]
            if question["isBalanced"]:
                lists["accuracy"].append(right)
                lists["open" if types["structural"] == "query" else "binary"].append(right)
                groups["structural"][types["structural"]].append(right)
                groups["semantic"][types["semantic"]].append(right)
                groups["steps"][_steps(question)].append(right)
                groups["words"][len(question["question"].split())].append(right)
                row = given[identity]
                samples.append(
                    SampleScore(
                        identity,
                        right,
                        row.text,
                        replies[identity],
                        question["answer"],
                        question["question"],
                        types["structural"],
                    )
                )
                if choices is not None:
                    for name, key in (("validity", "valid"), ("plausibility", "plausible")):
                        common = "Common" in (types.get("detailed") or "")
                        allowed = _COMMON if common else _allowed(choices, identity, key)
                        extra[name].append(float(replies[identity] in allowed))
            if self.spec.consistency and right:
                line = Line(question, f"question {identity}")
                named_there = require(line, {"entailed": list}, "a question of GQA")["entailed"]
                entailed = [e for e in named_there if e != identity]
                if predictions.partial:
                    entailed = [e for e in entailed if e in replies]
                if absent := [e for e in entailed if e not in questions]:
                    raise DataError(
                        f"question {identity} entails {named(absent)}, not among the questions; consistency needs the"
                        " file of all questions, balanced or not"
                    )
                if entailed:
                    inferred = [float(replies.get(e) == questions[e]["answer"]) for e in entailed]
                    extra["consistency"].append(sum(inferred) / len(inferred))
        tell_near(samples, notes)
        metrics: dict[str, Any] = {name: _percent(values) for name, values in lists.items()}
        wanted = {
            "validity": self.spec.choices,
            "plausibility": self.spec.choices,
            "consistency": self.spec.consistency,
        }
        metrics |= {name: _percent(extra[name]) for name, asked_for in wanted.items() if asked_for}
        metrics["distribution"] = _distribution(questions, replies)
        for name, by_group in groups.items():
            metrics[name] = {str(key): _percent(values) for key, values in sorted(by_group.items())}
        return Scores("accuracy", metrics, samples, [mean(name, v) for name, v in lists.items() if v], notes)

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """The official prediction file, lower case and without trailing periods."""
        rows = [{"questionId": r.question_id, "prediction": _converted(r.text)} for r in predictions.rows]
        path = folder / "gqa_predictions.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return [path]


def _converted(text: str) -> str:
    return text.rstrip(".").lower()


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values) if values else 0.0


def _questions(data: Path) -> dict[str, dict[str, Any]]:
    path = find(data, "the questions of GQA", *_QUESTIONS)
    document = read_json(path)
    if not isinstance(document, dict) or not document:
        raise DataError(f"{path}: not an object of questions by id, as GQA's question files are")
    for identity, question in document.items():
        _check(Line(question, f"{path}, question {identity}"))
    return document


def _check(line: Line) -> None:
    keys = {"question": str, "answer": str, "types": dict, "groups": dict, "semantic": list}
    question = require(line, keys, "a question of GQA")
    require(Line(question["types"], f"{line.place}, types"), {"structural": str, "semantic": str}, "a question of GQA")
    for step in question["semantic"]:
        require(Line(step, f"{line.place}, semantic"), {"operation": str, "argument": str}, "a step of a GQA question")
    if question["groups"].get("global") is not None and not isinstance(question["groups"]["global"], str):
        raise DataError(f"{line.place}, groups: 'global' is {question['groups']['global']!r:.40}, not a name")
    if not isinstance(question.get("isBalanced"), bool):
        raise DataError(f"{line.place}: no 'isBalanced' that is true or false, which a question of GQA has")


def _picture_of(identity: str, question: Mapping[str, Any]) -> Any:
    return require(Line(question, f"question {identity}"), {"imageId": (str, int)}, "a question of GQA")["imageId"]


def _choices(data: Path) -> dict[str, Any]:
    path = find(data, "the choices of GQA", "*choices.json")
    loaded = read_json(path)
    if not isinstance(loaded, dict):
        raise DataError(f"{path}: not an object of choices by question, as GQA's choices files are")
    return loaded


def _allowed(choices: Mapping[str, Any], identity: str, key: str) -> Any:
    if identity not in choices:
        raise DataError(f"question {identity} is not in the file of choices")
    line = Line(choices[identity], f"the choices of question {identity}")
    return require(line, {key: list}, "GQA's choices file")[key]


def _steps(question: Mapping[str, Any]) -> int:
    names = [f"{step['operation']}: {step['argument']}" for step in question["semantic"]]
    return sum(not any(part in name for part in _NOT_STEPS) for name in names)


def _distribution(questions: Mapping[str, Mapping[str, Any]], replies: Mapping[str, str]) -> float | None:
    """Chi-square between right and given answers of each global group, weighted by its size; None without groups."""
    gold: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    told: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for identity, question in questions.items():
        group = question["groups"].get("global")
        if group is not None and question["isBalanced"] and identity in replies:
            gold[group][question["answer"]] += 1
            told[group][replies[identity]] += 1
    total = weight = 0.0
    for group, counts in gold.items():
        size = sum(counts.values())
        total += size * sum((told[group].get(answer, 0) - count) ** 2 / count for answer, count in counts.items())
        weight += size
    return total / weight / 100 if weight else None
