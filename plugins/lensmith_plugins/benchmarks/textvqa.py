"""TextVQA, as LLaVA scores it (M4C's evaluator)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensmith import Benchmark, DataError
from lensmith.evaluation.files import Line, PictureFolder, Reader, find, find_all, keyed, named, read_json, require
from lensmith.evaluation.matching import refuse_full_marks, tell_empty, tell_near
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks.answers import evalai, soft_accuracy
from lensmith_plugins.benchmarks.llava_questions import question_items, question_lines
from lensmith_plugins.benchmarks.specs import TextVqaSpec
from lensmith_plugins.benchmarks.texts import SHORT, ask
from lensmith_plugins.benchmarks.vqav2 import results

_ANNOTATIONS = ("TextVQA_0.5.1_val.json", "TextVQA*val*.json", "TextVQA*.json")
_OCR_FILE = "TextVQA_Rosetta_OCR*val*.json"
_LLAVA = ("llava_textvqa_*.jsonl", "llava_question_file.jsonl")
_OCR = "Reference OCR token: "
_is_result = keyed("question_id", "answer")


class TextVqa(Benchmark):
    """TextVQA (Singh et al. 2019, arXiv 1904.08920): accuracy against ten human answers."""

    spec: TextVqaSpec
    suffix = SHORT
    read = Reader({"results": results}, described="the official result file [{question_id, answer}, …]")

    def items(self, data: Path, images: Path) -> list[Item]:
        """The questions of LLaVA's file, else the official ones with Rosetta's tokens; ids are the pictures'."""
        if self.spec.ocr and (lines := question_lines(data, *_LLAVA)):
            return question_items(lines, images)
        tokens = _ocr_tokens(data) if self.spec.ocr else {}
        pictures = PictureFolder(images)
        items = []
        for entry in _annotations(data):
            question = entry["question"].capitalize()
            if self.spec.ocr:
                question = f"{question}\n{_OCR}{', '.join(tokens.get(entry['image_id'], ()))}"
            picture = pictures(f"{entry['image_id']}.jpg")
            items.append(Item(entry["image_id"], ask(question, SHORT), (picture,), _reference(entry)))
        return items

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Percent of the prediction lines: a question without a line is not counted, one with two is counted twice."""
        entries = _annotations(data)
        by_question = {(str(entry["image_id"]), entry["question"].lower()): entry for entry in entries}
        by_id = {str(entry["question_id"]): entry for entry in entries}
        samples, told = [], Counter[Any]()
        for row in predictions.rows:
            if predictions.form == "results":
                entry = by_id.get(str(row.question_id))
                question = entry["question"] if entry else str(row.question_id)
            else:
                question = question_of(row)
                entry = by_question.get((str(row.question_id), question.lower()))
            if entry is None:
                raise DataError(
                    f"{row.place}: there is no question {question!r} about picture {row.question_id} in the annotations"
                )
            if len(entry["answers"]) != 10:
                raise DataError(f"question {entry['question_id']} has {len(entry['answers'])} answers, not 10")
            told[entry["question_id"]] += 1
            reply = evalai(row.text)
            score = soft_accuracy(reply, [evalai(answer) for answer in entry["answers"]])
            samples.append(SampleScore(row.question_id, score, row.text, reply, _reference(entry), question))
        scores = [sample.score or 0.0 for sample in samples]
        accuracy = 100 * sum(scores) / len(scores)
        notes: list[str] = []
        if not predictions.partial:
            _tell_lines(entries, told, notes)
            missing = [entry["question_id"] for entry in entries if not told[entry["question_id"]]]
            refuse_full_marks(missing, accuracy, 100.0, "M4C's evaluator counts lines")
        tell_empty(predictions.rows, notes)
        tell_near(samples, notes)
        return Scores(
            "accuracy", {"accuracy": accuracy, "lines": len(scores)}, samples, [mean("accuracy", scores)], notes
        )


def _tell_lines(entries: Sequence[dict[str, Any]], told: Counter[Any], notes: list[str]) -> None:
    """Note which questions have no line, and which several."""
    ids = list(dict.fromkeys(entry["question_id"] for entry in entries))
    missing = [identity for identity in ids if not told[identity]]
    twice = [identity for identity in ids if told[identity] > 1]
    if missing or twice:
        why = [f"{len(missing)} questions have none ({named(missing)})"] if missing else []
        why += [f"{len(twice)} have several ({named(twice)})"] if twice else []
        notes.append(
            f"{sum(told.values())} lines for {len(entries)} questions; the score is over the lines, as in M4C's"
            f" evaluator: {', '.join(why)}"
        )


def question_of(row: Prediction) -> str:
    """The question in a prompt of one of the four shapes that LLaVA's scorer knows.

    Raises:
        DataError: another shape, by line.
    """
    lines = row.prompt.split("\n")
    if row.prompt.startswith("OCR tokens: "):
        if match := re.search(r"Question: (.*?) Short answer:", row.prompt, re.DOTALL):
            return match.group(1)
    elif _OCR in row.prompt and len(lines) == 3:
        return lines[1] if row.prompt.startswith(_OCR.strip()) else lines[0]
    elif len(lines) == 2:
        return lines[0]
    raise DataError(
        f"{row.place}: its `prompt` is none of those that TextVQA's questions can be read from (question, then"
        f" perhaps `{_OCR}…`, then the format sentence, a line each): {row.prompt!r:.80}"
    )


def _reference(entry: dict[str, Any]) -> str:
    answers: Sequence[str] = entry["answers"]
    return max(answers, key=list(answers).count) if answers else ""


def _annotations(data: Path) -> list[dict[str, Any]]:
    files = [path for path in find_all(data, *_ANNOTATIONS) if "OCR" not in path.name]
    path = files[0] if len(files) == 1 else find(data, "the annotations of TextVQA", *_ANNOTATIONS)
    document = read_json(path)
    records = document.get("data") if isinstance(document, dict) else None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: no list `data`, as TextVQA's files have")
    keys = {"question_id": (int, str), "image_id": (int, str), "question": str, "answers": list}
    lines = [Line(entry, f"{path}, entry {number}") for number, entry in enumerate(records, 1)]
    entries = [require(line, keys, "a question of TextVQA") for line in lines]
    for entry, line in zip(entries, lines, strict=True):
        if wrong := [answer for answer in entry["answers"] if not isinstance(answer, str)]:
            raise DataError(f"{line.place}: an answer is {wrong[0]!r:.40}, not text")
    return entries


def _ocr_tokens(data: Path) -> dict[str, list[str]]:
    path = find(data, "Rosetta's OCR tokens (or LLaVA's question file)", _OCR_FILE, *_LLAVA)
    document = require(Line(read_json(path), str(path)), {"data": list}, "Rosetta's file of OCR tokens")
    tokens = {}
    for number, value in enumerate(document["data"], 1):
        keys = {"image_id": (str, int), "ocr_tokens": list}
        entry = require(Line(value, f"{path}, entry {number}"), keys, "an entry of OCR tokens")
        if wrong := [token for token in entry["ocr_tokens"] if not isinstance(token, str)]:
            raise DataError(f"{path}, entry {number}: an OCR token is {wrong[0]!r:.40}, not text")
        tokens[entry["image_id"]] = entry["ocr_tokens"]
    return tokens
