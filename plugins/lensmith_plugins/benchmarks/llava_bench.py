"""LLaVA-Bench (In-the-Wild): a judge reads captions of the picture and compares with text-only GPT-4."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensmith import DataError
from lensmith.evaluation.files import Line, PictureFolder, find, find_all, read_json_lines, require
from lensmith.evaluation.matching import by_question, questions_by_text
from lensmith.interfaces.benchmark import Item, Prediction, Predictions
from lensmith_plugins.benchmarks.judge_texts import RULE_LLAVA_BENCH
from lensmith_plugins.benchmarks.pairwise import STRAYS, Pair, Pairwise
from lensmith_plugins.benchmarks.specs import LlavaBenchSpec

_QUESTIONS = ("questions.jsonl", "*question*.jsonl")
_CONTEXT = ("context.jsonl", "*context*.jsonl")
_REFERENCES = ("answers_gpt4.jsonl", "answers_reference.jsonl", "*gpt4*.jsonl", "*reference*.jsonl")


class LlavaBench(Pairwise):
    """LLaVA-Bench, In-the-Wild (LLaVA, Liu et al. 2023, arXiv 2304.08485, section 5.1)."""

    spec: LlavaBenchSpec

    def items(self, data: Path, images: Path) -> list[Item]:
        """The questions, without any format sentence."""
        pictures = PictureFolder(images)
        return [
            Item(q["question_id"], q["text"], (pictures(q["image"]),), category=q["category"])
            for q in map(_question, read_json_lines(find(data, "the questions of LLaVA-Bench", *_QUESTIONS)))
        ]

    def asked_ids(self, data: Path) -> list[Any]:
        """See `Pairwise.asked_ids`."""
        return [
            _question(line)["question_id"] for path in find_all(data, *_QUESTIONS)[:1] for line in read_json_lines(path)
        ]

    def pairs(self, predictions: Predictions, data: Path) -> list[Pair]:
        """See `Pairwise.pairs`."""
        questions = [_question(line) for line in read_json_lines(find(data, "the questions", *_QUESTIONS))]
        references = [_answer(line) for line in read_json_lines(find(data, "the reference answers", *_REFERENCES))]
        context = dict(map(_caption, read_json_lines(find(data, "the captions (context)", *_CONTEXT))))
        pairs = []
        for question, reference, row in matched(questions, references, predictions, by_id=self.spec.pairing == "id"):
            caption = context.get(question["image"])
            if caption is None:
                raise DataError(f"question {question['question_id']}: no caption of {question['image']} in the context")
            content = (
                f"[Context]\n{caption}\n\n{dialogue(question['text'], reference['text'], row.text)}"
                f"[System]\n{RULE_LLAVA_BENCH}\n\n"
            )
            category = f"llava_bench_{question['category']}"
            pairs.append(
                Pair(
                    question["question_id"],
                    category,
                    question["text"],
                    reference["text"],
                    row.text,
                    content,
                    row.place,
                    strays(question, reference, row),
                )
            )
        return pairs


def dialogue(question: str, first: str, second: str) -> str:
    """The blocks of question and answers that every pairwise judge reads."""
    return (
        f"[Question]\n{question}\n\n"
        f"[Assistant 1]\n{first}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{second}\n\n[End of Assistant 2]\n\n"
    )


def matched(
    questions: list[dict[str, Any]], references: list[dict[str, Any]], predictions: Predictions, *, by_id: bool
) -> list[tuple[dict[str, Any], Mapping[str, Any], Any]]:
    """Question, reference and answer of each question: line by line, or by their ids.

    Raises:
        DataError: there are more questions than answers, or, by id, one of them is missing.
    """
    if by_id:
        ids = [question["question_id"] for question in questions]
        given = by_question(predictions.rows, ids, [])
        by_text = questions_by_text(reference["question_id"] for reference in references)
        known = dict(zip(by_text, references, strict=True))
        if lost := [i for i in ids if i not in given or str(i) not in known]:
            raise DataError(f"{len(lost)} questions have no answer or no reference: {', '.join(map(str, lost[:5]))}")
        return [(question, known[str(i)], given[i]) for question, i in zip(questions, ids, strict=True)]
    if not len(questions) <= len(references) or len(predictions.rows) != len(questions):
        raise DataError(
            f"{len(questions)} questions, {len(references)} reference answers and {len(predictions.rows)} answers; they"
            " are paired line by line, so that there must be as many (`pairing=id` pairs by question)"
        )
    return list(zip(questions, references, predictions.rows, strict=False))


def strays(question: Mapping[str, Any], reference: Mapping[str, Any], row: Prediction) -> tuple[str, ...]:
    """Which of the two answers say another question's id, 1 and "1" being the same."""
    ids = (reference["question_id"], row.question_id)
    own = str(question["question_id"])
    return tuple(what for what, identity in zip(STRAYS, ids, strict=True) if str(identity) != own)


def _caption(line: Line) -> tuple[str, str]:
    value = require(line, {"image": str, "caption": (str, list)}, "a caption of the context")
    caption = value["caption"]
    return value["image"], "\n".join(map(str, caption)) if isinstance(caption, list) else caption


def _question(line: Line) -> dict[str, Any]:
    return require(line, {"question_id": (int, str), "image": str, "text": str, "category": str}, "a question")


def _answer(line: Line) -> dict[str, Any]:
    return require(line, {"question_id": (int, str), "text": str}, "a reference answer")
