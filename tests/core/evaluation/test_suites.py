"""`lensmith eval --suite`: benchmarks with data of their own, asked of a model that is loaded once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import lensmith as package
from lensmith import loading
from lensmith.evaluation import answering
from lensmith.evaluation.answering import Answered, Asked

Lensmith = Callable[..., tuple[int, str, str]]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which artifacts were loaded; every question is answered with `red`."""
    loaded: list[Path] = []
    work = loading.load

    def counted(artifact: Path, **more: Any) -> Any:
        loaded.append(artifact)
        return work(artifact, **more)

    def reply(self: object, questions: Sequence[Asked], max_new_tokens: int) -> list[Answered]:
        return [Answered("red") for _ in questions]

    monkeypatch.setattr(loading, "load", counted)
    monkeypatch.setattr(answering.ModelAnswerer, "__call__", reply)
    return loaded


def suite(folder: Path, *entries: dict[str, Any]) -> Path:
    file = folder / "suite.yaml"
    file.write_text(yaml.safe_dump({"benchmarks": list(entries)}))
    return file


def test_each_has_its_data_options_and_folder(
    artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith, loads: list[Path]
) -> None:
    file = suite(
        tmp_path,
        {"name": "vqa", "data": "questions", "label": "short", "limit": 4},
        {"name": "vqa", "data": "questions/questions.jsonl", "images": "questions/pictures", "options": {"suffix": ""}},
    )
    out = tmp_path / "out"
    code, said, _ = lensmith("eval", artifact, "--suite", file, "--output", out, "--limit", "7", "--json")
    assert code == 0
    told = json.loads(said)
    assert [(one["title"], one["benchmark"], one["samples"]) for one in told] == [
        ("short", "vqa", 4),
        ("vqa", "vqa", 7),
    ]
    assert loads == [artifact]
    asked = [json.loads((out / name / "predictions.jsonl").read_text().splitlines()[0]) for name in ("short", "vqa")]
    assert ["single word" in row["prompt"] for row in asked] == [True, False]
    _, said, _ = lensmith("eval", artifact, "--suite", file, "--output", out, "--limit", "7")
    assert str(out / "short") in said
    assert len(loads) == 1


def test_one_that_cannot_be_asked_does_not_stop_the_others(
    artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith
) -> None:
    (questions / "pictures" / "0.png").write_bytes(b"no picture")
    entries = [
        {"name": "vqa", "data": "questions", "label": name, "limit": limit} for name, limit in (("bad", 2), ("good", 1))
    ]
    (tmp_path / "text.jsonl").write_text('{"id": 1, "question": "Which colour?", "answers": ["red"]}\n')
    entries[1] |= {"data": "text.jsonl"}
    command = ("eval", artifact, "--suite", suite(tmp_path, *entries), "--output", tmp_path / "out")
    code, told, said = lensmith(*command, "--max-new-tokens", "2")
    assert code == 2
    assert "bad, question q0: " in said
    assert "good" in told
    assert (tmp_path / "out" / "good" / "summary.json").is_file()
    assert not (tmp_path / "out" / "bad" / "summary.json").exists()


def test_a_judge_that_fails_does_not_stop_the_others_and_is_asked_again(
    artifact: Path, tmp_path: Path, lensmith: Lensmith, judge: Any, loads: list[Path]
) -> None:
    pytest.importorskip("openai")

    def write(name: str, entry: dict[str, Any]) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(entry) + "\n")

    write("bench/question.jsonl", {"question_id": 0, "text": "What?", "category": "generic"})
    write("bench/answers_reference.jsonl", {"question_id": 0, "text": "That."})
    write("text.jsonl", {"id": 1, "question": "Which colour?", "answers": ["red"]})
    file = suite(tmp_path, {"name": "vicuna80", "data": "bench"}, {"name": "vqa", "data": "text.jsonl"})
    out = tmp_path / "out"
    asking = ("eval", artifact, "--suite", file, "--output", out, "--judge-url", judge.url, "--yes")
    judge.script = lambda request: 400
    code, told, said = lensmith(*asking)
    assert code == 2
    assert "the judge gpt-4 did not answer" in said
    assert "exact_match" in told or "vqa_accuracy" in told
    assert (out / "vqa" / "summary.json").is_file()
    assert not (out / "vicuna80" / "summary.json").exists()
    judge.script = lambda request: "8 6"
    assert lensmith(*asking)[0] == 0
    assert json.loads((out / "vicuna80" / "summary.json").read_text())["score"] == pytest.approx(75.0)


def test_judges_are_not_asked_about_a_part(
    artifact: Path, tmp_path: Path, lensmith: Lensmith, judge: Any, loads: list[Path]
) -> None:
    pytest.importorskip("openai")
    (tmp_path / "bench").mkdir()
    for name in ("question", "answers_reference"):
        rows = [{"question_id": n, "text": f"{name} {n}", "category": "generic"} for n in range(3)]
        (tmp_path / "bench" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = suite(tmp_path, {"name": "vicuna80", "data": "bench", "limit": 2})
    code, said, told = lensmith(
        "eval", artifact, "--suite", file, "--output", tmp_path / "out", "--judge-url", judge.url
    )
    assert code == 0, told
    assert "not scored" in said
    assert judge.asked == []


def test_without_a_judge_python_gets_predictions_and_no_score(
    artifact: Path, tmp_path: Path, loads: list[Path]
) -> None:
    (tmp_path / "question.jsonl").write_text('{"question_id": 0, "text": "What?", "category": "generic"}\n')
    (tmp_path / "answers_reference.jsonl").write_text('{"question_id": 0, "text": "That."}\n')
    (told,) = package.evaluate(artifact, ["vicuna80"], data=tmp_path, output=tmp_path / "out")
    assert told["score"] is None
    assert "judge" in told["unscored"]
    assert (tmp_path / "out" / "vicuna80" / "predictions.jsonl").is_file()


def test_several_files_are_runs_only_where_that_means_something(
    questions: Path, tmp_path: Path, lensmith: Lensmith
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"question_id": "q0", "prompt": "", "text": "red"}\n')
    code, _, said = lensmith("score", "vqa", "-p", tmp_path / "a.jsonl", "-p", tmp_path / "b.jsonl", "-d", questions)
    assert code == 2
    assert "b.jsonl: only one file of such predictions is scored" in said


def test_questions_that_could_not_be_asked_are_noted(
    artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith
) -> None:
    (questions / "pictures" / "0.png").write_bytes(b"no picture")
    command = ("eval", artifact, "-b", "vqa", "-d", questions, "-O", tmp_path / "out", "--keep-going", "--limit", "2")
    code, _, said = lensmith(*command, "--max-new-tokens", "2")
    assert code == 0
    assert "1 questions could not be asked; their answers are empty: q0" in said
    assert "could not be asked" in lensmith(*command, "--max-new-tokens", "2")[2]  # nor forgotten when it is read again


@pytest.mark.parametrize(
    ("entries", "more", "message"),
    [
        ([{"name": "vqa", "data": "questions"}] * 2, (), "vqa is there twice; give each a label"),
        ([{"name": "vqa"}], (), "benchmarks.0.data"),
        ([], (), "at least 1 item"),
        ([{"name": "vqa", "data": "questions", "label": "a/b"}], (), "cannot be the name of a folder"),
        ([{"name": "vqa", "data": "questions", "label": ".."}], (), "cannot be the name of a folder"),
        ([{"name": "vqx", "data": "questions"}], (), "Did you mean 'vqa'"),
        ([{"name": "vqa", "data": "questions", "options": {"sufix": ""}}], (), "vqa: vqa has no option 'sufix'"),
        ([{"name": "vqa", "data": "gone"}], (), "gone: there is no such folder"),
        ([{"name": "vqa", "data": "questions"}], ("--benchmark", "vqa"), "leave these flags out"),
    ],
)
def test_mistakes(
    entries: list[dict[str, Any]],
    more: tuple[str, ...],
    message: str,
    artifact: Path,
    questions: Path,
    tmp_path: Path,
    lensmith: Lensmith,
    loads: list[Path],
) -> None:
    command = ("eval", artifact, "--suite", suite(tmp_path, *entries), "--output", tmp_path / "out", *more)
    code, _, said = lensmith(*command)
    assert code == 2
    assert message in said
    assert not loads


def test_something_must_be_asked(artifact: Path, tmp_path: Path, lensmith: Lensmith) -> None:
    code, _, said = lensmith("eval", artifact, "--output", tmp_path, "--benchmark", "vqa")
    assert code == 2
    assert "--benchmark NAMES with --data DIR, or --suite FILE" in said
