"""`lensmith eval`, as a user runs it: answers, scores, a report; stopped and taken up again; in shards."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import lensmith as package
from lensmith.evaluation import answering
from lensmith.evaluation.answering import Answered, Asked

Lensmith = Callable[..., tuple[int, str, str]]
SHORT = ("--max-new-tokens", "4")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> list[list[Asked]]:
    """Answers `red` to every question, in place of the model; what it was asked is kept."""
    asked: list[list[Asked]] = []

    def reply(self: object, questions: Sequence[Asked], max_new_tokens: int) -> list[Answered]:
        asked.append(list(questions))
        return [Answered("red") for _ in questions]

    monkeypatch.setattr(answering.ModelAnswerer, "__call__", reply)
    return asked


def test_a_model_is_asked_and_scored(artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith) -> None:
    out = tmp_path / "out"
    code, said, _ = lensmith(
        "eval", artifact, "-b", "vqa", "-d", questions, "-O", out, "--batch-size", "3", *SHORT, "--json"
    )
    assert code == 0
    (told,) = json.loads(said)
    rows = lines(out / "vqa" / "predictions.jsonl")
    assert [row["question_id"] for row in rows] == [f"q{number}" for number in range(10)]
    model = package.load(artifact)
    options = package.GenerationOptions(max_new_tokens=4)
    for number in (0, 3, 9):
        images = questions / "pictures" / f"{number}.png" if number < 8 else None
        assert rows[number]["text"] == model.generate(images, rows[number]["prompt"], options).strip()
    assert rows[0]["prompt"] == "What colour is it? 0\nAnswer the question using a single word or phrase."
    _, said, _ = lensmith("score", "vqa", "-p", out / "vqa" / "predictions.jsonl", "-d", questions, "--json")
    assert json.loads(said)["metrics"] == told["metrics"]
    assert len(lines(out / "vqa" / "samples.jsonl")) == 10


def test_a_stopped_run_goes_on(
    artifact: Path,
    questions: Path,
    tmp_path: Path,
    lensmith: Lensmith,
    colours: list[list[Asked]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    command = ("eval", artifact, "-b", "vqa", "-d", questions, "-O", out, "--batch-size", "1")
    work = answering.ModelAnswerer.__call__

    def dies(self: Any, asked: Sequence[Asked], limit: int) -> list[Answered]:
        if len(colours) == 2:
            raise KeyboardInterrupt
        return work(self, asked, limit)

    monkeypatch.setattr(answering.ModelAnswerer, "__call__", dies)
    assert lensmith(*command)[0] == 130
    kept = out / "vqa" / "answers" / "0-of-1.jsonl"
    assert len(lines(kept)) == 8
    with kept.open("a") as file:
        file.write('{"question_id": "q8", "te')  # what a kill leaves of a line
    monkeypatch.setattr(answering.ModelAnswerer, "__call__", work)
    colours.clear()
    assert lensmith(*command)[0] == 0
    assert sum(map(len, colours)) == 2
    told = json.loads((out / "vqa" / "summary.json").read_text())
    assert told["metrics"]["exact_match"] == pytest.approx(40.0)
    assert told["intervals"]["of"]["exact_match"][0] < 40 < told["intervals"]["of"]["exact_match"][1]


def test_shards_meet(
    artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith, colours: list[list[Asked]]
) -> None:
    command = ("eval", artifact, "-b", "vqa", "-d", questions, "-O", tmp_path / "out")
    assert lensmith(*command, "--shard", "1/3")[0] == 0
    assert [asked.prompt.split("\n")[0] for asked in colours[0]] == [f"What colour is it? {n}" for n in (1, 4, 7)]
    assert not (tmp_path / "out" / "vqa" / "summary.json").exists()
    colours.clear()
    code, _, _ = lensmith(*command)  # whoever comes without a shard answers the rest and scores
    assert code == 0
    assert sum(map(len, colours)) == 7
    assert len(lines(tmp_path / "out" / "vqa" / "predictions.jsonl")) == 10


@pytest.mark.slow
def test_several_processes_give_the_same_answers(
    artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith
) -> None:
    for name, more in (("one", ()), ("two", ("--nproc", "2"))):
        command = ("eval", artifact, "-b", "vqa", "-d", questions, "-O", tmp_path / name)
        assert lensmith(*command, *SHORT, *more)[0] == 0
    one, two = ([r["text"] for r in lines(tmp_path / name / "vqa" / "predictions.jsonl")] for name in ("one", "two"))
    assert one == two


def test_answers_of_another_run_are_not_mixed_in(
    artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith, colours: list[list[Asked]]
) -> None:
    command = ("eval", artifact, "-b", "vqa", "-d", questions, "-O", tmp_path / "out")
    assert lensmith(*command)[0] == 0
    code, _, said = lensmith(*command, "--beams", "3")
    assert code == 2
    assert "beams was 1 and is 3" in said
    code, _, said = lensmith(*command, "-o", "suffix=Be brief.")
    assert code == 2
    was = "Answer the question using a single word or phrase."
    assert f"option suffix was {was!r} and is 'Be brief.', which changes what is asked" in said
    assert "sha256" not in said
    assert lensmith(*command, "-o", "normalise=none")[0] == 0  # how it is scored is no other run


def test_N8_what_ends_the_questions_is_told_and_nothing_right_explained(
    artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith, colours: list[list[Asked]]
) -> None:
    code, _, said = lensmith("eval", artifact, "-b", "vqa", "-d", questions, "-O", tmp_path / "out", *SHORT)
    assert code == 0
    assert "every question ends with 'Answer the question using a single word or phrase.'" in said
    assert "`-o suffix=` asks without" in said
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("".join(json.dumps({"question_id": f"q{n}", "text": "a long story"}) + "\n" for n in range(10)))
    code, out, said = lensmith("score", "vqa", "-p", wrong, "-d", questions)
    assert code == 0
    assert "note: nothing is right: the reply to question q0 is 'a long story', and right is 'red'" in said
    assert "-o suffix=" in said
    assert "0.00 to 27.75" in out


def test_E9_reasoning_of_a_model_is_no_part_of_its_answer(questions: Path, tmp_path: Path, lensmith: Lensmith) -> None:
    rows = [json.loads(line) for line in (questions / "questions.jsonl").read_text().splitlines()]
    path = tmp_path / "p.jsonl"
    path.write_text(
        "".join(
            json.dumps({"question_id": row["id"], "text": f"<think>\nred or blue?\n</think>\n\n{row['answers'][0]}"})
            + "\n"
            for row in rows
        )
    )
    code, out, _ = lensmith("score", "vqa", "-p", path, "-d", questions, "--json")
    assert (code, json.loads(out)["score"]) == (0, 100)
    assert "10 replies began with reasoning, left out" in json.loads(out)["notes"][0]


def test_a_question_that_cannot_be_asked(artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith) -> None:
    (questions / "pictures" / "2.png").write_bytes(b"no picture")
    command = ("eval", artifact, "-b", "vqa", "-d", questions, "-O", tmp_path / "out", *SHORT)
    code, _, said = lensmith(*command)
    assert code == 2
    assert "vqa, question q2: " in said
    assert "--keep-going" in said
    code, said, _ = lensmith(*command, "--keep-going", "--json")
    assert code == 0
    assert json.loads(said)[0]["not_asked"] == ["q2"]
    assert lines(tmp_path / "out" / "vqa" / "predictions.jsonl")[2]["text"] == ""


def test_the_report_is_safe_and_whole(
    artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith, colours: list[list[Asked]]
) -> None:
    assert lensmith("eval", artifact, "-b", "vqa", "-d", questions, "-O", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "vqa" / "report.html").read_text()
    assert html.escape("<script>alert('x')</script> & \"colour\"?", quote=False) in page.replace("&#39;", "'").replace(
        "&#34;", '"'
    )
    assert "<script" not in page
    assert page.count('<img src="data:image/jpeg;base64,') == 8
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    scores = [float(value) for value in re.findall(r'class="score \w+">([\d.]+)<', page)]
    assert len(scores) == 10
    assert scores == sorted(scores)


def test_letters_are_compared_by_their_likelihood(artifact: Path, tmp_path: Path, lensmith: Lensmith) -> None:
    for split, count in (("dev", 5), ("test", 4)):
        (tmp_path / "data" / split).mkdir(parents=True)
        rows = "".join(f"Question {n}?,one,two,None,{n},{'ABCD'[n % 4]}\n" for n in range(count))
        (tmp_path / "data" / split / f"anatomy_{split}.csv").write_text(rows)
    command = ("eval", artifact, "-b", "mmlu", "-d", tmp_path / "data", "-O", tmp_path / "out", "--json")
    code, said, _ = lensmith(*command)
    assert code == 0
    assert set(json.loads(said)[0]["metrics"]["subjects"]) == {"anatomy"}
    model = package.load(artifact)
    for row in lines(tmp_path / "out" / "mmlu" / "predictions.jsonl"):
        assert row["fallback"] > 0  # five examples do not fit 256 positions of bytes
        assert "C. nan" in row["prompt"]
        asked = Asked(row["prompt"].split("\n\n")[0] + "\n\n" + row["prompt"].split("\n\n")[-1], (), (" A", " B"))
        both = answering.choose(model, asked)
        assert both.text == max(both.data["logprobs"], key=both.data["logprobs"].get)
        assert row["text"] == max(row["logprobs"], key=row["logprobs"].get)


@pytest.mark.parametrize("per_token", [False, True])
def test_answers_are_ranked_by_their_likelihood(
    per_token: bool, artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith
) -> None:
    """SEED-Bench's own way: the options are not shown, the likeliest is taken."""
    texts = [("red", "a red one", "green", "blue"), ("no", "yes", "perhaps it is so", "never")]
    document = {
        "question_type": {"Scene": 1},
        "questions": [
            {"question_id": str(n), "question_type_id": 1, "data_type": "image", "data_id": f"{n}.png", "answer": "A"}
            | {"question": f"Which {n}?", **{f"choice_{x}": text for x, text in zip("abcd", options, strict=True)}}
            for n, options in enumerate(texts)
        ],
    }
    file = tmp_path / "SEED-Bench.json"
    file.write_text(json.dumps(document))
    way = "likelihood_per_token" if per_token else "likelihood"
    command = ("eval", artifact, "-b", "seed", "-d", file, "-O", tmp_path / "out", "-o", f"answers={way}")
    code, _, said = lensmith(*command, "--images", questions / "pictures")
    assert code == 0, said
    model = package.load(artifact)
    for number, row in enumerate(lines(tmp_path / "out" / "seed" / "predictions.jsonl")):
        assert row["prompt"] == f"Which {number}?"
        picture = questions / "pictures" / f"{number}.png"
        (found,) = model.score([(picture, row["prompt"])], [list(texts[number])])
        values = [each.mean if per_token else each.log for each in found]
        assert list(row["logprobs"].values()) == pytest.approx(values, abs=1e-4)
        assert row["text"] == "ABCD"[values.index(max(values))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-b", "vqx"), "Did you mean 'vqa'"),
        (("-b", "vqa", "-o", "sufix=x"), "Did you mean 'suffix'"),
        (("-b", "vqa", "-o", "normalise=best"), "option normalise of vqa"),
        (("-b", "vqa", "-o", "pope.pairing=id"), "'pope' is not among the benchmarks vqa"),
        (("-b", "vqa,vqa"), "a name comes twice"),
        (("-b", ","), "no benchmark is named"),
        (("-b", "vqa", "--shard", "3/3"), "should read I/N"),
        (("-b", "vqa", "--shard", "0/2", "--nproc", "2"), "leave --shard out"),
        (("-b", "gqa"), "the questions of GQA are not there"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    arguments: tuple[str, ...], message: str, artifact: Path, questions: Path, tmp_path: Path, lensmith: Lensmith
) -> None:
    code, _, said = lensmith("eval", artifact, "-d", questions, "-O", tmp_path / "out", *arguments)
    assert code == 2
    assert message in said
