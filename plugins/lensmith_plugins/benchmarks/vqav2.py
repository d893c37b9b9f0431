"""VQAv2, as the official tool scores what LLaVA uploads."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensmith import Benchmark, DataError
from lensmith.evaluation.files import (
    Line,
    PictureFolder,
    Reader,
    find,
    find_all,
    keyed,
    named,
    read_json,
    require,
)
from lensmith.evaluation.matching import by_question, tell_near
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks.answers import evalai, flat, punctuation, vqa
from lensmith_plugins.benchmarks.llava_questions import question_items, question_lines
from lensmith_plugins.benchmarks.specs import VqaV2Spec
from lensmith_plugins.benchmarks.texts import SHORT, ask, without

_ANNOTATIONS = ("v2_mscoco_*_annotations.json", "*annotations*.json")
_QUESTIONS = ("v2_OpenEnded_mscoco_*_questions.json", "*questions*.json")
_LLAVA = ("llava_vqav2_*.jsonl", "llava_question_file.jsonl")
_is_result = keyed("question_id", "answer")


def results(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    """The official result file: a list of `{question_id, answer}`."""
    if not isinstance(document, list) or not _is_result(lines):
        return None
    rows = []
    for line in lines:
        value = require(line, {"question_id": (int, str), "answer": str}, "a result file")
        rows.append(Prediction(value["question_id"], value["answer"], place=line.place, data=value))
    return rows


class VqaV2(Benchmark):
    """VQAv2 (Goyal et al. 2017, arXiv 1612.00837): accuracy against ten human answers."""

    spec: VqaV2Spec
    suffix = SHORT
    read = Reader({"results": results}, tolerant=True, described="the official result file [{question_id, answer}, …]")

    def items(self, data: Path, images: Path) -> list[Item]:
        """The questions of the official file, or of LLaVA's; with their most frequent answer where there is one."""
        files = find_all(data, *_QUESTIONS)
        if not files:
            return question_items(question_lines(data, *_LLAVA), images) or [self._missing(data)]
        document = read_json(find(data, "the questions of VQAv2", *_QUESTIONS))
        pictures = PictureFolder(images)
        references = self._references(data)
        try:
            subtype = document["data_subtype"].replace("test-dev", "test")
            return [
                Item(
                    question["question_id"],
                    ask(question["question"], SHORT),
                    (pictures(f"COCO_{subtype}_{question['image_id']:012d}.jpg"),),
                    references.get(question["question_id"], ""),
                )
                for question in document["questions"]
            ]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{files[0]}: not a question file of VQAv2 ({error!r})") from error

    @staticmethod
    def _missing(data: Path) -> Item:
        find(data, "the questions of VQAv2", *_QUESTIONS, *_LLAVA)
        raise DataError(f"{data}: the questions of VQAv2 hold nothing")

    @staticmethod
    def _references(data: Path) -> dict[Any, str]:
        files = find_all(data, *_ANNOTATIONS) if data.is_dir() else []
        annotations = _annotations(files[0]) if len(files) == 1 else []
        return {entry["question_id"]: str(entry.get("multiple_choice_answer") or "") for entry in annotations}

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Percent, rounded to two decimals as in the official tool."""
        annotations = _annotations(find(data, "the annotations of VQAv2", *_ANNOTATIONS))
        notes: list[str] = [f"{place}: not JSON, passed over" for place in predictions.skipped]
        ids = [entry["question_id"] for entry in annotations]
        if predictions.form == "results":
            _whole(predictions.rows, ids)
        given = by_question(predictions.rows, ids, notes)
        if predictions.partial:
            annotations = [entry for entry in annotations if entry["question_id"] in given]
            ids = [entry["question_id"] for entry in annotations]
        replies = self._replies(predictions.form, given, ids, notes)
        samples = []
        groups: dict[str, dict[str, list[float]]] = {
            "answer_type": defaultdict(list),
            "question_type": defaultdict(list),
        }
        for entry in annotations:
            identity = entry["question_id"]
            score, read_as = accuracy(replies[identity], entry["answers"], self.spec.revision)
            for kind, lists in groups.items():
                lists[entry[kind]].append(score)
            row = given.get(identity)
            samples.append(
                SampleScore(
                    identity,
                    score,
                    row.text if row else "",
                    read_as,
                    str(entry.get("multiple_choice_answer") or ""),
                    without(row.prompt, SHORT) if row else "",
                    entry["question_type"],
                )
            )
        tell_near(samples, notes)
        all_scores = [sample.score or 0.0 for sample in samples]
        metrics: dict[str, Any] = {"accuracy": percent(all_scores)}
        for kind, lists in groups.items():
            metrics[kind] = {name: percent(values) for name, values in lists.items()}
        quantities = [mean("accuracy", all_scores)]
        quantities += [mean(f"answer_type.{name}", values) for name, values in groups["answer_type"].items()]
        return Scores("accuracy", metrics, samples, quantities, notes)

    def _replies(
        self, form: str, given: Mapping[Any, Prediction], ids: Sequence[Any], notes: list[str]
    ) -> dict[Any, str]:
        """What is compared for every question."""
        if missing := [identity for identity in ids if identity not in given]:
            notes.append(f"{len(missing)} questions without an answer, scored as empty answers: {named(missing)}")
        convert = evalai if form == "llava" and self.spec.upload == "llava" else str
        return {identity: convert(given[identity].text) if identity in given else "" for identity in ids}

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """EvalAI's file: an answer, normalised, for every question of the split; empty where there is none."""
        found = find_all(data, "v2_OpenEnded_mscoco_test2015_questions.json", *_QUESTIONS)
        if found:
            ids = _question_ids(found[0])
        else:
            lines = question_lines(data, "llava_vqav2_mscoco_test2015.jsonl", *_LLAVA)
            ids = [line.value["question_id"] for line in lines]
            ids = ids or list({str(row.question_id): row.question_id for row in predictions.rows}.values())
        replies = self._replies("llava", by_question(predictions.rows, ids, []), ids, [])
        path = folder / "vqav2_upload.json"
        path.write_text(json.dumps([{"question_id": i, "answer": replies[i]} for i in ids]), encoding="utf-8")
        return [path]


def _whole(rows: Sequence[Prediction], ids: Sequence[Any]) -> None:
    """Raises:
    DataError: an official result file does not hold exactly the annotated questions.
    """
    told, annotated = {str(row.question_id) for row in rows}, set(map(str, ids))
    missing = [identity for identity in ids if str(identity) not in told]
    foreign = [row.question_id for row in rows if str(row.question_id) not in annotated]
    if missing or foreign:
        raise DataError(
            f"a result file has every annotated question and no other: {len(missing)} are missing"
            f" ({named(missing) or 'none'}), {len(foreign)} are not annotated ({named(foreign) or 'none'})"
        )


def percent(scores: Sequence[float]) -> float:
    """The mean as the official tool prints it."""
    return round(100 * float(sum(scores)) / len(scores), 2)


def accuracy(reply: str, records: Sequence[Mapping[str, Any]], revision: str) -> tuple[float, str]:
    """VQA accuracy as the official tool has it, and the reply as it was compared.

    Both sides are normalised only where the human answers are not all one string. An annotator's own answer is left
    out by comparing whole records, so that repeated records go together.
    """
    reply = flat(reply)
    humans = [{**record, "answer": flat(record["answer"])} for record in records]
    unanimous = len({record["answer"] for record in humans}) == 1
    if revision == "before-2021":
        reply = vqa(reply)
        if not unanimous:
            humans = [{**record, "answer": punctuation(record["answer"])} for record in humans]
    elif not unanimous:
        reply = vqa(reply)
        humans = [{**record, "answer": vqa(record["answer"])} for record in humans]
    scores = []
    for own in humans:
        equal = sum(other["answer"] == reply for other in humans if other != own)
        scores.append(min(1.0, equal / 3))
    return (sum(scores) / len(scores) if scores else 0.0), reply


def _question_ids(path: Path) -> list[Any]:
    document = read_json(path)
    keys = {"question_id": (int, str)}
    questions = require(Line(document, str(path)), {"questions": list}, "a question file of VQAv2")["questions"]
    lines = [Line(question, f"{path}, question {number}") for number, question in enumerate(questions, 1)]
    return [require(line, keys, "a question of VQAv2")["question_id"] for line in lines]


def _annotations(path: Path) -> list[dict[str, Any]]:
    document = read_json(path)
    records = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: no list `annotations`, as the official annotations of VQAv2 have")
    keys = {"question_id": (int, str), "answers": list, "answer_type": str, "question_type": str}
    lines = [Line(record, f"{path}, annotation {number}") for number, record in enumerate(records, 1)]
    return [human_answers(require(line, keys, "an annotation"), line.place) for line in lines]


def human_answers(entry: dict[str, Any], place: str) -> dict[str, Any]:
    """The annotation, whose `answers` are objects with `answer`.

    Raises:
        DataError: one is not, as where they are written as mere texts, or there are none.
    """
    if not entry["answers"]:
        raise DataError(f"{place}: no human answers to compare with")
    for number, record in enumerate(entry["answers"], 1):
        if not (isinstance(record, dict) and isinstance(record.get("answer"), str)):  # the message is made on demand
            require(Line(record, f"{place}, answer {number}"), {"answer": str}, "an answer of an annotator")
    return entry
