"""For each benchmark a folder of a few questions, the answers that are all right, and a judge that says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmith.interfaces.benchmark import JudgeRequest
from lensmith_plugins.benchmarks.mme import _TASKS

SHORT = "Answer the question using a single word or phrase."


@dataclass
class Material:
    """Files by name (a list is JSON lines where the name says so, text stands as it is) and answer lines.

    `missing` is what a benchmark makes of an answer that is not there: `refused`, or `told` in a note.
    """

    files: dict[str, Any]
    answers: list[dict[str, Any]]
    options: tuple[str, ...] = ()
    missing: str = "told"
    wrong: str = "something else"
    judge: Callable[[Sequence[JudgeRequest]], list[str]] | None = None

    def write(self, folder: Path) -> Path:
        """The folder with the files."""
        for name, value in self.files.items():
            written(folder / name, value)
        return folder


def written(path: Path, value: Any) -> Path:
    """JSON, or JSON lines for a file `*.jsonl`; text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, str):
        path.write_text(value)
    elif isinstance(value, list) and (path.suffix == ".jsonl" or "coco_pope" in path.name):
        path.write_text("".join(json.dumps(entry) + "\n" for entry in value))
    else:
        path.write_text(json.dumps(value))
    return path


def told(texts: dict[Any, str], prompt: str = "") -> list[dict[str, Any]]:
    """Answer lines."""
    return [{"question_id": identity, "prompt": prompt, "text": text} for identity, text in texts.items()]


def _vqav2() -> Material:
    annotations = [
        {
            "question_id": number,
            "image_id": number,
            "answer_type": "other",
            "question_type": "what",
            "multiple_choice_answer": word,
            "answers": [{"answer": word, "answer_confidence": "yes", "answer_id": n} for n in range(10)],
        }
        for number, word in ((1, "red"), (2, "blue"), (3, "dog"))
    ]
    questions = [{"question_id": n, "image_id": n, "question": "What?"} for n in (1, 2, 3)]
    return Material(
        {
            "v2_mscoco_val2014_annotations.json": {"annotations": annotations},
            "v2_OpenEnded_mscoco_val2014_questions.json": {"data_subtype": "val2014", "questions": questions},
        },
        told({1: "red", 2: "blue", 3: "dog"}),
    )


def _gqa() -> Material:
    def question(word: str) -> dict[str, Any]:
        return {
            "question": "What is this?",
            "answer": word,
            "imageId": "p",
            "isBalanced": True,
            "types": {"structural": "query", "semantic": "obj", "detailed": "x"},
            "groups": {"global": "thing", "local": "l"},
            "entailed": [],
            "semantic": [{"operation": "select", "argument": "dog", "dependencies": []}],
        }

    words = {"201": "dog", "202": "cat", "203": "cow"}
    return Material(
        {"testdev_balanced_questions.json": {i: question(word) for i, word in words.items()}},
        told(dict(words)),
        missing="refused",
    )


def _vizwiz() -> Material:
    entries = [
        {
            "image": f"{n}.png",
            "question": "What?",
            "answers": [{"answer": word, "answer_confidence": "yes"}] * 10,
            "answerable": 1,
            "answer_type": "other",
        }
        for n, word in enumerate(("red", "blue", "dog"))
    ]
    return Material({"val.json": entries}, told({0: "red", 1: "blue", 2: "dog"}), missing="refused")


def _scienceqa() -> Material:
    problems = {
        str(n): {
            "question": "Which?",
            "choices": ["iron", "gold"],
            "answer": n % 2,
            "hint": "Look.",
            "image": "image.png",
            "subject": "natural science",
            "grade": "grade2",
        }
        for n in (1, 2, 3)
    }
    answers = told({n: "AB"[n % 2] for n in (1, 2, 3)}, "<image>\nWhich?")
    return Material({"problems.json": problems, "pid_splits.json": {"test": ["1", "2", "3"]}}, answers)


def _textvqa() -> Material:
    entries = [
        {"question_id": n, "image_id": f"i{n}", "question": f"what is {n}?", "answers": [word] * 10}
        for n, word in ((5, "stop"), (6, "go"), (7, "wait"))
    ]
    answers = [
        {"question_id": e["image_id"], "prompt": f"{e['question']}\n{SHORT}", "text": e["answers"][0]} for e in entries
    ]
    return Material({"TextVQA_0.5.1_val.json": {"data": entries}}, answers)


def _pope() -> Material:
    labels = [
        {"question_id": n, "image": "p.png", "text": f"Is there a {n} in the image?", "label": word}
        for n, word in ((1, "yes"), (2, "no"), (3, "yes"))
    ]
    answers = [
        {"question_id": e["question_id"], "prompt": f"{e['text']}\n{SHORT}", "text": e["label"].capitalize()}
        for e in labels
    ]
    return Material({"coco_pope_random.json": labels}, answers)


def _mme() -> Material:
    files, answers = {}, []
    for task in _TASKS:
        for name in ("a", "b"):
            pair = [(f"Is it {n}? Please answer yes or no.", word) for n, word in ((1, "Yes"), (2, "No"))]
            place = f"MME_Benchmark_release_version/{task}/{name}.txt"
            files[place] = "".join(f"{q}\t{a}\n" for q, a in pair)
            answers += [
                {
                    "question_id": f"{task}/{name}.jpg",
                    "prompt": f"{question.replace(' Please answer yes or no.', '')}\n{SHORT}",
                    "text": answer,
                }
                for question, answer in pair
            ]
    return Material(files, answers, missing="refused")


def _mmbench(name: str = "mmbench_dev_20230712.tsv") -> Material:
    header = "index\tquestion\thint\tA\tB\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit\n"
    rows = "".join(
        f"{index}\tWhat?\t\tcat\tdog\t{letter}\tocr\tAAAA\ts\tlogic_reasoning\t\tdev\n"
        for index, letter in ((7, "A"), (8, "B"), (1000007, "B"), (1000008, "A"))
    )
    return Material({name: header + rows}, told({7: "A", 8: "B", 1000007: "B", 1000008: "A"}))


def _seed() -> Material:
    questions = [
        {
            "question_id": identity,
            "question_type_id": 1,
            "data_type": "image",
            "data_id": "p.png",
            "question": "Which?",
            "answer": letter,
            **{f"choice_{x}": f"thing {x}" for x in "abcd"},
        }
        for identity, letter in (("7", "A"), ("8", "B"), ("v0", "C"))
    ]
    files = {"SEED-Bench.json": {"question_type": {"Scene": 1}, "questions": questions}}
    return Material(files, told({7: "A", 8: "B", "v0": "C"}))


def _pairwise_judge(requests: Sequence[JudgeRequest]) -> list[str]:
    return ["8 8\nBoth are good."] * len(requests)


def _llava_bench() -> Material:
    questions = [{"question_id": n, "image": "p.png", "text": f"Q{n}?", "category": "conv"} for n in range(3)]
    return Material(
        {
            "questions.jsonl": questions,
            "context.jsonl": [{"id": "1", "image": "p.png", "caption": "a red box"}],
            "answers_gpt4.jsonl": [{"question_id": n, "text": f"reference {n}"} for n in range(3)],
        },
        told({n: f"answer {n}" for n in range(3)}),
        options=("repeats=1",),
        missing="refused",
        judge=_pairwise_judge,
    )


def _vicuna80() -> Material:
    questions = [{"question_id": n, "text": f"Q{n}?", "category": "generic"} for n in range(3)]
    return Material(
        {
            "question.jsonl": questions,
            "answers_reference.jsonl": [{"question_id": n, "text": f"reference {n}"} for n in range(3)],
        },
        told({n: f"answer {n}" for n in range(3)}),
        missing="refused",
        judge=_pairwise_judge,
    )


def _mmvet() -> Material:
    questions = {
        f"v1_{n}": {"imagename": "p.png", "question": "What?", "answer": word, "capability": ["rec", "ocr"]}
        for n, word in ((0, "a dog"), (1, "a cat"), (2, "a cow"))
    }
    return Material(
        {"mm-vet.json": questions},
        told({0: "a dog", 1: "a cat", 2: "a cow"}),
        missing="refused",
        judge=lambda requests: ["1.0"] * len(requests),
    )


def _mmlu() -> Material:
    return Material(
        {
            "test/astronomy_test.csv": "One?,1,2,3,4,A\nTwo?,5,6,7,8,D\n",
            "dev/astronomy_dev.csv": "Dev?,1,2,3,4,B\n",
        },
        told({"astronomy/0": "A", "astronomy/1": "D"}),
        missing="refused",
    )


def _vqa() -> Material:
    rows = [
        {"id": n, "image": "p.png", "question": f"Q{n}?", "answers": [word]}
        for n, word in ((1, "red"), (2, "blue"), (3, "dog"))
    ]
    return Material({"questions.jsonl": rows}, told({1: "red", 2: "blue", 3: "dog"}))


def _caption() -> Material:
    words = {1: "A red square on a table.", 2: "Two green cats sleep here now!", 3: "Blue sky over the old town"}
    rows = [{"id": n, "image": f"{n}.png", "captions": [text]} for n, text in words.items()]
    return Material({"captions.jsonl": rows}, told(dict(words)))


MATERIAL: dict[str, Callable[[], Material]] = {
    "vqav2": _vqav2,
    "gqa": _gqa,
    "vizwiz": _vizwiz,
    "scienceqa": _scienceqa,
    "textvqa": _textvqa,
    "pope": _pope,
    "mme": _mme,
    "mmbench": _mmbench,
    "mmbench_cn": lambda: _mmbench("mmbench_dev_cn_20231003.tsv"),
    "seed": _seed,
    "llava_bench": _llava_bench,
    "mmvet": _mmvet,
    "vicuna80": _vicuna80,
    "mmlu": _mmlu,
    "vqa": _vqa,
    "caption": _caption,
}
