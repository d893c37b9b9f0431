"""ScienceQA, as LLaVA reads letters from replies."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensmith import Benchmark, DataError
from lensmith.evaluation.files import Line, PictureFolder, Reader, find, find_all, named, read_json, require
from lensmith.evaluation.matching import Reading, by_question, refuse_full_marks, tell_readings
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks import lenient
from lensmith_plugins.benchmarks.specs import ScienceQaSpec
from lensmith_plugins.benchmarks.texts import LETTER, ask, without

_LETTERS = "ABCDE"
_SENTENCE = re.compile(r"The answer is ([A-Z]).")
_PLACEHOLDER = "<image>"
_FAILED = "FAILED"


def letter_of(reply: str) -> str:
    """The letter that LLaVA's scorer finds in a reply; `FAILED` where it finds none."""
    if reply in tuple(_LETTERS):
        return reply
    if len(reply) >= 3 and reply[0] in _LETTERS and reply[1:3] == ". ":
        return reply[0]
    found = _SENTENCE.findall(reply)
    return found[0] if len(found) == 1 else _FAILED


def _result(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    """The result file that LLaVA's scorer writes and the official tool reads: indices by question."""
    if not (isinstance(document, dict) and isinstance(document.get("results"), dict)):
        return None
    texts = document.get("outputs", {})
    rows = []
    for identity, index in document["results"].items():
        if isinstance(index, bool) or not isinstance(index, int):
            raise DataError(f"{lines[0].place}: result {identity!r} is {index!r}, not the number of an option")
        if not isinstance(texts, dict):
            raise DataError(f"{lines[0].place}: 'outputs' is {texts!r:.40}, not an object of replies by question")
        rows.append(Prediction(identity, str(texts.get(identity, index)), place=lines[0].place, data={"index": index}))
    return rows


class ScienceQa(Benchmark):
    """ScienceQA (Lu et al. 2022, arXiv 2209.09513): accuracy over the test split, and over its questions with pictures.

    Which questions have a picture is told by the prompt in the prediction, as in LLaVA: a lost answer counts as wrong
    over all and is not counted among those with a picture.
    """

    spec: ScienceQaSpec
    suffix = LETTER
    max_new_tokens = 1024
    read = Reader({"result": _result}, described="a result file {results: {question: option number}}")

    def items(self, data: Path, images: Path) -> list[Item]:
        """LLaVA's `llava_test_CQM-A.json` where it is, else prompts of the same form from `problems.json`."""
        pictures = PictureFolder(images)
        problems, ids = _problems(data)
        prompts = _llava_prompts(data)
        items = []
        for identity in ids:
            problem = problems[identity]
            shown = bool(problem.get("image"))
            if not shown and self.spec.subset == "image":
                continue
            text = prompts.get(identity) or _prompt(problem)
            prompt = ask(text, LETTER)
            picture = (_picture(pictures, identity, problem["image"]),) if shown else ()
            line = f"{_PLACEHOLDER}\n{prompt}" if shown else prompt
            truth = _LETTERS[problem["answer"]] if problem["answer"] < len(_LETTERS) else ""
            items.append(Item(identity, prompt, picture, truth, problem.get("subject", ""), extra={"prompt": line}))
        return items

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Percent, rounded to two decimals, with the classes of the official tool."""
        problems, ids = _problems(data)
        notes: list[str] = []
        given = by_question(predictions.rows, ids, notes)
        if predictions.partial:
            ids = [identity for identity in ids if identity in given]
        lost = self._missing(problems, ids, given, notes)
        if predictions.form == "result":
            notes.append("a result file holds no prompts: questions with pictures are those of problems.json")
        samples, image_scores, readings = [], [], []
        for identity in ids:
            problem, row = problems[identity], given.get(identity)
            index = _index(row, problem["choices"], self.spec.reading)
            if row is not None:
                strict, meant = (_index(row, problem["choices"], reading) for reading in ("paper", "lenient"))
                readings.append(Reading(identity, row.text, *(_LETTERS[i] if i >= 0 else "" for i in (strict, meant))))
            right = float(index == problem["answer"])
            if row is not None and (_PLACEHOLDER in row.prompt or ("index" in row.data and problem.get("image"))):
                image_scores.append(right)
            samples.append(
                SampleScore(
                    identity,
                    right,
                    row.text if row else "",
                    _LETTERS[index] if index >= 0 else _FAILED,
                    f"{chr(65 + problem['answer'])}. {problem['choices'][problem['answer']]}",
                    without(row.prompt, LETTER) if row else problem["question"],
                    problem.get("subject", ""),
                )
            )
        is_lenient = self.spec.reading == "lenient"
        tell_readings(readings, notes, what="an option", fate="wrong", lenient=is_lenient)
        scores = [sample.score or 0.0 for sample in samples]
        metrics: dict[str, Any] = {
            "accuracy": _percent(scores),
            "image_accuracy": _percent(image_scores) if image_scores else None,
            "questions": len(scores),
            "image_questions": len(image_scores),
            "classes": _classes([problems[identity] for identity in ids], scores),
        }
        if not image_scores:
            notes.append("no prediction is about a picture, so there is no accuracy over pictures")
        headline = "image_accuracy" if self.spec.subset == "image" and image_scores else "accuracy"
        if headline == "image_accuracy":
            rule = "LLaVA's scorer takes a question for one with a picture by its answer"
            refuse_full_marks(lost, metrics["image_accuracy"], 100.0, rule)
        quantities = [mean("accuracy", scores)] + ([mean("image_accuracy", image_scores)] if image_scores else [])
        return Scores(headline, metrics, samples, quantities, notes)

    @staticmethod
    def _missing(
        problems: Mapping[str, Any], ids: Sequence[str], given: Mapping[Any, Any], notes: list[str]
    ) -> list[str]:
        """Questions with a picture and without an answer, and a note of all without an answer."""
        missing = [identity for identity in ids if identity not in given]
        pictured = [identity for identity in missing if problems[identity].get("image")]
        if missing:
            notes.append(f"{len(missing)} questions of the split without an answer, wrong: {named(missing)}")
        if pictured:
            notes.append(
                f"{len(pictured)} of them have a picture and are not counted in image_accuracy, as in LLaVA's scorer:"
                f" {named(pictured)}"
            )
        return pictured

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """The result file that the official tool reads."""
        problems, ids = _problems(data)
        given = by_question(predictions.rows, ids, [])
        indices = {i: _index(given.get(i), problems[i]["choices"], self.spec.reading) for i in ids}
        right = sum(indices[i] == problems[i]["answer"] for i in ids)
        result = {
            "acc": right / len(ids) * 100,
            "correct": right,
            "count": len(ids),
            "results": indices,
            "outputs": {i: given[i].text if i in given else _FAILED for i in ids},
        }
        path = folder / "scienceqa_result.json"
        path.write_text(json.dumps(result, indent=2), encoding="utf-8")
        return [path]


def _index(row: Prediction | None, choices: Sequence[str], reading: str) -> int:
    """The option that was chosen, from 0; -1 for none."""
    if row is None:
        return -1
    if "index" in row.data:
        index = int(row.data["index"])
        return index if 0 <= index < min(len(choices), len(_LETTERS)) else -1
    if reading == "lenient":
        letter = lenient.letter_of(row.text, dict(zip(_LETTERS, map(str, choices), strict=False))) or _FAILED
    else:
        letter = letter_of(row.text)
    index = _LETTERS.find(letter) if letter != _FAILED else -1
    return index if index < min(len(choices), len(_LETTERS)) else -1


def _percent(values: Sequence[float]) -> float:
    return round(100 * sum(values) / len(values), 2)


def _prompt(problem: Mapping[str, Any]) -> str:
    context = [f"Context: {problem['hint']}"] if problem.get("hint") else []
    options = [f"{chr(65 + number)}. {choice}" for number, choice in enumerate(problem["choices"])]
    return "\n".join([*context, problem["question"], *options])


def _llava_prompts(data: Path) -> dict[str, str]:
    found = find_all(data, "llava_test_CQM-A.json") if data.is_dir() else []
    prompts = {}
    for path in found:
        document = read_json(path)
        for number, value in enumerate(document if isinstance(document, list) else [document], 1):
            place = f"{path}, entry {number}"
            entry = require(Line(value, place), {"id": (int, str), "conversations": list}, "LLaVA's ScienceQA file")
            first = Line(entry["conversations"][0] if entry["conversations"] else None, f"{place}, conversations")
            text = require(first, {"value": str}, "a turn of LLaVA's ScienceQA file")["value"]
            prompts[str(entry["id"])] = text.replace(_PLACEHOLDER, "").strip()
    return prompts


def _picture(pictures: PictureFolder, identity: str, name: str) -> Path:
    for place in (f"{identity}/{name}", f"test/{identity}/{name}", f"images/test/{identity}/{name}"):
        if (pictures.folder / place).is_file():
            return pictures.folder / place
    return pictures(f"{identity}/{name}")


def _problems(data: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    path = find(data, "the problems of ScienceQA", "problems.json")
    problems = read_json(path)
    splits_path = find(data, "the splits of ScienceQA", "pid_splits.json")
    splits = read_json(splits_path)
    if not isinstance(problems, dict) or not problems:
        raise DataError(f"{path}: not an object of problems by id with `choices` and `answer`")
    if not isinstance(splits, dict) or not isinstance(splits.get("test"), list) or not splits["test"]:
        raise DataError(f"{splits_path}: no list `test`")
    for identity, problem in problems.items():
        _check(Line(problem, f"{path}, problem {identity}"))
    ids = [str(identity) for identity in splits["test"]]
    if len(set(ids)) < len(ids):
        raise DataError(f"{splits_path}: an id comes a second time in `test`")
    if absent := [identity for identity in ids if identity not in problems]:
        raise DataError(f"{path}: {len(absent)} problems of the test split are not there: {named(absent)}")
    return problems, ids


_OPTIONAL = {"hint": str, "image": str, "subject": str, "grade": str}


def _check(line: Line) -> None:
    """Raises:
    DataError: a problem without question, options or the right one's number, or with a value of another kind.
    """
    keys = {"question": str, "choices": list, "answer": int}
    problem = require(line, keys, "a problem of ScienceQA")
    if not problem["choices"] or not all(isinstance(choice, str) for choice in problem["choices"]):
        raise DataError(f"{line.place}: 'choices' is {problem['choices']!r:.60}, not a list of texts")
    if not 0 <= problem["answer"] < len(problem["choices"]):
        raise DataError(
            f"{line.place}: 'answer' is {problem['answer']}, and there are {len(problem['choices'])} choices"
        )
    for key, kind in _OPTIONAL.items():
        if problem.get(key) is not None and not isinstance(problem[key], kind):
            raise DataError(f"{line.place}: {key!r} is {problem[key]!r:.60}, not text")


def _classes(problems: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> dict[str, float]:
    """The official tool's table: subjects, kinds of context and grades."""
    groups: dict[str, list[float]] = defaultdict(list)
    for problem, score in zip(problems, scores, strict=True):
        groups[str(problem.get("subject", "")).partition(" ")[0]].append(score)
        text, image = bool(problem.get("hint")), bool(problem.get("image"))
        groups["has_text"] += [score] * text
        groups["has_image"] += [score] * image
        groups["no_context"] += [score] * (not text and not image)
        grade = re.fullmatch(r"grade(\d+)", str(problem.get("grade", "")))
        if grade:
            groups["grade_1_6" if int(grade.group(1)) <= 6 else "grade_7_12"].append(score)
    return {name: _percent(values) for name, values in groups.items() if name and values}
