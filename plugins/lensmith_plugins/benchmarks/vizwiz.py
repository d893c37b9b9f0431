"""VizWiz-VQA, as the challenge's API scores what LLaVA uploads."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
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
from lensmith_plugins.benchmarks.answers import evalai, soft_accuracy, vqa
from lensmith_plugins.benchmarks.llava_questions import question_items, question_lines
from lensmith_plugins.benchmarks.specs import VizWizSpec
from lensmith_plugins.benchmarks.texts import SHORT, UNANSWERABLE, ask
from lensmith_plugins.benchmarks.vqav2 import human_answers, percent

_ANNOTATIONS = ("annotations.json", "val.json", "test.json", "*.json")
_LLAVA = ("llava_test.jsonl", "llava_vizwiz*.jsonl", "llava_question_file.jsonl", "*question*.jsonl")
_is_upload = keyed("image", "answer")


def _upload(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    if not isinstance(document, list) or not _is_upload(lines):
        return None
    rows = []
    for line in lines:
        value = require(line, {"image": str, "answer": str}, "an upload of VizWiz")
        rows.append(Prediction(value["image"], value["answer"], place=line.place, data=value))
    return rows


class VizWiz(Benchmark):
    """VizWiz (Gurari et al. 2018, arXiv 1802.08218): accuracy against ten human answers, and whether there is one."""

    spec: VizWizSpec
    suffix = f"{UNANSWERABLE}\n{SHORT}"
    read = Reader({"upload": _upload}, tolerant=True, described="the upload [{image, answer}, …]")

    def items(self, data: Path, images: Path) -> list[Item]:
        """The questions in the order of the official file, or of LLaVA's; their ids are their numbers from 0."""
        if lines := question_lines(data, *_LLAVA):
            return question_items(lines, images)
        pictures = PictureFolder(images)
        return [
            Item(number, ask(entry["question"], UNANSWERABLE, SHORT), (pictures(entry["image"]),), _reference(entry))
            for number, entry in enumerate(_annotations(data, scored=False))
        ]

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Percent, rounded to two decimals."""
        entries = _annotations(data, scored=True)
        notes: list[str] = [f"{place}: not JSON, passed over" for place in predictions.skipped]
        rows = self._by_image(predictions, data, [entry["image"] for entry in entries], notes)
        if predictions.partial:
            entries = [entry for entry in entries if entry["image"] in rows]
        missing = [entry["image"] for entry in entries if entry["image"] not in rows]
        if missing:
            raise DataError(f"{len(missing)} pictures have no answer: {named(missing)}; VizWiz scores whole files only")
        convert = evalai if predictions.form == "llava" and self.spec.upload == "llava" else str
        samples, unanswerable, groups = [], [], defaultdict(list)
        for entry in entries:
            row = rows[entry["image"]]
            reply = vqa(convert(row.text), curly=True)
            score = soft_accuracy(reply, [answer["answer"] for answer in entry["answers"]])
            groups[entry.get("answer_type") or ""].append(score)
            unanswerable.append((1 - int(entry.get("answerable", 1)), reply == "unanswerable"))
            samples.append(
                SampleScore(
                    row.question_id,
                    score,
                    row.text,
                    reply,
                    _reference(entry),
                    entry["question"],
                    entry.get("answer_type") or "",
                )
            )
        tell_near(samples, notes)
        scores = [sample.score or 0.0 for sample in samples]
        metrics: dict[str, Any] = {"accuracy": percent(scores)}
        if any(groups):
            metrics["answer_type"] = {name: percent(values) for name, values in groups.items()}
        metrics["unanswerability"] = _unanswerability(unanswerable)
        return Scores("accuracy", metrics, samples, [mean("accuracy", scores)], notes)

    @staticmethod
    def _by_image(
        predictions: Predictions, data: Path, images: Sequence[str], notes: list[str]
    ) -> dict[str, Prediction]:
        """Predictions by the picture's name; LLaVA's are by number, which its question file ties to a picture."""
        if predictions.form == "upload":
            return by_question(predictions.rows, images, notes)
        lines = question_lines(data, *_LLAVA)
        names: dict[Any, str] = {line.value["question_id"]: line.value["image"] for line in lines}
        shown = set(images)
        names = {i: name for i, name in names.items() if name in shown} if names else dict(enumerate(images))
        names |= {name: name for name in images if name not in set(map(str, names))}
        found = by_question(predictions.rows, names, notes)
        by_name: dict[str, list[Prediction]] = defaultdict(list)
        for identity, row in found.items():
            by_name[names[identity]].append(row)
        if twice := [name for name, several in by_name.items() if len(several) > 1]:
            notes.append(f"{len(twice)} pictures are answered by number and by name, the later counts: {named(twice)}")
        return {name: several[-1] for name, several in by_name.items()}

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """EvalAI's file: a normalised answer for each picture."""
        lines = question_lines(data, *_LLAVA)
        images = [x.value["image"] for x in lines] or [x["image"] for x in _annotations(data, scored=False)]
        images = list(dict.fromkeys(images))
        rows = self._by_image(predictions, data, images, [])
        if missing := [image for image in images if image not in rows]:
            raise DataError(f"{len(missing)} pictures have no answer: {named(missing)}; the upload needs them all")
        upload = [{"image": image, "answer": evalai(rows[image].text)} for image in images]
        path = folder / "vizwiz_upload.json"
        path.write_text(json.dumps(upload), encoding="utf-8")
        return [path]


def _reference(entry: dict[str, Any]) -> str:
    answers = [answer["answer"] for answer in entry.get("answers", ())]
    return max(answers, key=answers.count) if answers else ""


def _annotations(data: Path, *, scored: bool) -> list[dict[str, Any]]:
    keys = {"image": str, "question": str} | ({"answers": list} if scored else {})
    for path in find_all(data, *_ANNOTATIONS):
        document = read_json(path)
        first = document[0] if isinstance(document, list) and document else None
        if isinstance(first, dict) and keys.keys() <= first.keys():
            return [_annotation(Line(entry, f"{path}, entry {n}"), keys) for n, entry in enumerate(document, 1)]
    path = find(data, "the annotations of VizWiz", *_ANNOTATIONS)
    raise DataError(f"{path}: not a list of {{{', '.join(keys)}, …}}, as the annotations of VizWiz are")


def _annotation(line: Line, keys: dict[str, Any]) -> dict[str, Any]:
    entry = require(line, keys, "an annotation")
    if "answers" in entry:
        human_answers(require(line, {"answers": list}, "an annotation"), line.place)
    if not isinstance(entry.get("answer_type") or "", str):
        raise DataError(f"{line.place}: 'answer_type' is {entry['answer_type']!r:.40}, not a name")
    if entry.get("answerable", 1) not in (0, 1, "0", "1"):
        raise DataError(f"{line.place}: 'answerable' is {entry['answerable']!r:.40}, which is 0 or 1 in VizWiz")
    return entry


def _unanswerability(pairs: Sequence[tuple[int, bool]]) -> dict[str, float]:
    """Average precision and F1 of saying `unanswerable`, in percent; a yes-or-no ranking has two levels."""
    positives = sum(truth for truth, _ in pairs)
    said = sum(told for _, told in pairs)
    hits = sum(truth and told for truth, told in pairs)
    if not positives:
        return {"average_precision": 0.0, "f1": 0.0}
    precision = hits / said if said else 0.0
    recall = hits / positives
    average = recall * precision + (1 - recall) * positives / len(pairs)
    f1 = 2 * hits / (said + positives)
    return {"average_precision": round(100 * average, 2), "f1": round(100 * f1, 2)}
