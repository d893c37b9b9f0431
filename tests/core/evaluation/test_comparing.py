"""Two results compared question by question."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lensmith import DataError, LensmithError
from lensmith.evaluation.comparing import compare, sign_test

Lensmith = Callable[..., tuple[int, str, str]]


def samples(path: Path, scores: Sequence[Any], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"question_id": n, "score": score, "reference": "red", "question": f"Q{n}?", **more}
        for n, score in enumerate(scores)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_N20_pairs_tell_more_than_two_intervals(tmp_path: Path) -> None:
    first = samples(tmp_path / "a.jsonl", [1.0] * 50 + [0.0] * 50)
    second = samples(tmp_path / "b.jsonl", [1.0] * 58 + [0.0] * 42)
    (found,) = compare(first, second)
    assert found.questions == 100
    assert (found.first, found.second, found.difference) == pytest.approx((50, 58, 8))
    assert (found.gained, found.lost) == (8, 0)
    assert found.p == pytest.approx(2 * 0.5**8)
    assert found.low is not None
    assert found.low > 0  # each alone would be 40 to 60 and 48 to 68


def test_N20_the_sign_test() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(5, 5) == 1
    assert sign_test(10, 2) == pytest.approx(0.03857421875)
    assert 0 < sign_test(60_000, 40_000) < 1e-100 or sign_test(60_000, 40_000) == 0


def test_N20_what_is_not_in_both_is_told(tmp_path: Path) -> None:
    first = samples(tmp_path / "a.jsonl", [1.0, 0.0, None, 1.0])
    second = samples(tmp_path / "b.jsonl", [1.0, 1.0, 1.0])
    (found,) = compare(first, second)
    assert found.questions == 2
    assert any("1 questions are in" in note and note.endswith("left out: 3") for note in found.notes)
    assert any("1 questions have no score" in note for note in found.notes)


def test_N20_a_question_that_comes_twice_is_paired_in_its_order(tmp_path: Path) -> None:
    rows = [{"question_id": "a.jpg", "question": "Is it?", "score": score, "reference": ""} for score in (1.0, 0.0)]
    for name, order in (("a", rows), ("b", rows)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in order))
    assert compare(tmp_path / "a.jsonl", tmp_path / "b.jsonl")[0].questions == 2


@pytest.mark.parametrize(
    ("second", "error", "words"),
    [
        ([{"question_id": 9, "score": 1.0}], DataError, "no question in common"),
        ([{"question_id": 0, "question": "Q0?", "score": 1.0, "reference": "blue"}], DataError, "right answers of 1"),
        ([{"question_id": 0, "score": "1"}], DataError, r"b\.jsonl:1: 'score' is '1'"),
        ([{"score": 1.0}], DataError, r"b\.jsonl:1: no 'question_id'"),
        ([], DataError, "holds no samples"),
    ],
)
def test_N20_other_files_are_refused(second: list[Any], error: Any, words: str, tmp_path: Path) -> None:
    first = samples(tmp_path / "a.jsonl", [1.0])
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in second))
    with pytest.raises(error, match=words):
        compare(first, tmp_path / "b.jsonl")


def test_N20_folders_of_results(tmp_path: Path, lensmith: Lensmith) -> None:
    for name, score in (("one", 0.0), ("two", 1.0)):
        samples(tmp_path / name / "vqa" / "samples.jsonl", [score, 1.0])
        samples(tmp_path / name / f"only-{name}" / "samples.jsonl", [1.0])
    code, out, _ = lensmith("compare", tmp_path / "one", tmp_path / "two")
    assert code == 0
    assert out.splitlines()[1].split()[:5] == ["vqa", "2", "50.00", "100.00", "+50.00"]
    code, out, _ = lensmith("compare", tmp_path / "one", tmp_path / "two", "--json")
    assert [each["title"] for each in json.loads(out)] == ["vqa"]
    with pytest.raises(LensmithError, match="no benchmark in common"):
        compare(tmp_path / "one" / "only-one", tmp_path / "two")
    code, _, said = lensmith("compare", tmp_path / "nowhere", tmp_path / "two")
    assert code == 2
    assert "no samples.jsonl there" in said
