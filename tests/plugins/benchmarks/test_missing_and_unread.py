"""What is missing, doubled or unreadable is refused or told, and never costs or gives points in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lensmith import DataError
from lensmith.evaluation.choose import benchmark
from lensmith.interfaces.benchmark import Scores
from lensmith_plugins.benchmarks import lenient

Get = Callable[[str], Any]
NAMES = [
    *("vqav2", "gqa", "vizwiz", "scienceqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn", "seed", "llava_bench"),
    *("mmvet", "vicuna80", "mmlu", "vqa", "caption"),
]
PAIRED_BY_ORDER = {"llava_bench", "vicuna80"}
WHOLE_ONLY = {"gqa", "vizwiz", "mme", "llava_bench", "mmvet", "vicuna80", "mmlu"}
"""Benchmarks that refuse a file in which an answer is missing."""


@pytest.fixture(autouse=True)
def _libraries() -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pycocoevalcap")


def scored(name: str, of: Any, folder: Path, answers: Sequence[Any], *options: str) -> Scores:
    path = folder / "zz_predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in answers))
    chosen = benchmark(name, [*of.options, *options])
    return chosen.score(chosen.read([path]), folder, of.judge)


@pytest.mark.parametrize("name", NAMES)
def test_E5_right_answers_score_full_marks_and_nothing_is_told(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    found = scored(name, of, of.write(tmp_path), of.answers)
    if name == "caption":
        assert found.metrics["rouge_l"] == pytest.approx(100)
    else:
        assert found.value == pytest.approx(found.full_marks)
    assert found.notes == []


@pytest.mark.parametrize("name", NAMES)
def test_E5_a_missing_answer_is_refused_or_told_and_never_full_marks(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    folder = of.write(tmp_path)
    for place in range(min(len(of.answers), 4)):
        lost = of.answers[place]
        left = of.answers[:place] + of.answers[place + 1 :]
        if name in WHOLE_ONLY | {"scienceqa", "textvqa"} or (name == "pope" and place == len(of.answers) - 1):
            with pytest.raises(DataError) as refused:
                scored(name, of, folder, left)
            if name not in PAIRED_BY_ORDER | {"textvqa"}:
                assert str(lost["question_id"]).split(".")[0] in str(refused.value)
            continue
        found = scored(name, of, folder, left)
        assert found.metrics["cider"] < 1000 if name == "caption" else found.value < found.full_marks
        assert any(str(lost["question_id"]) in note or name == "textvqa" for note in found.notes), found.notes


def test_E5_of_mme_both_answers_of_a_picture_are_missing(material: Get, tmp_path: Path) -> None:
    of = material("mme")
    left = [line for line in of.answers if line["question_id"] != "OCR/b.jpg"]
    for options in ((), ("pairing=picture",)):
        with pytest.raises(DataError, match=r"2 questions about 1 pictures have no reply: OCR/b; MME scores both"):
            scored("mme", of, of.write(tmp_path), left, *options)


def test_E5_an_official_folder_of_mme_is_held_against_the_questions(material: Get, tmp_path: Path) -> None:
    of = material("mme")
    folder = of.write(tmp_path / "data")
    chosen = benchmark("mme")
    (tmp_path / "out").mkdir()
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in of.answers))
    files = chosen.submission(chosen.read([path]), folder, tmp_path / "out")
    path.unlink()
    assert chosen.score(chosen.read([files[0].parent]), folder).notes == []
    (count,) = [file for file in files if file.name == "count.txt"]
    whole = count.read_text()
    count.write_text("".join(line + "\n" for line in whole.splitlines()[:2]))
    with pytest.raises(DataError, match="2 questions about 1 pictures have no reply: count/b"):
        chosen.score(chosen.read([files[0].parent]), folder)
    alone = chosen.score(chosen.read([files[0].parent]), files[0].parent)
    assert "MME's questions are not in" in alone.notes[0]
    count.write_text(whole.replace("Yes\tYes", "No\tNo", 1))
    with pytest.raises(DataError, match=r"count\.txt:1: the right answer is 'Yes', not 'No'"):
        chosen.score(chosen.read([files[0].parent]), folder)


@pytest.mark.parametrize("name", NAMES)
def test_E4_doubled_answers_are_told(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    folder = of.write(tmp_path)
    doubled = [*of.answers[:2], *of.answers]
    if name in PAIRED_BY_ORDER:
        with pytest.raises(DataError, match="paired line by line"):
            scored(name, of, folder, doubled)
        return
    found = scored(name, of, folder, doubled)
    assert any("replaced by later ones" in note or "several" in note for note in found.notes), found.notes


@pytest.mark.parametrize("name", NAMES)
def test_E6_an_id_is_the_same_as_a_number_and_as_text(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    folder = of.write(tmp_path)
    for kind in (str, lambda identity: int(identity) if str(identity).isdecimal() else identity):
        found = scored(name, of, folder, [{**line, "question_id": kind(line["question_id"])} for line in of.answers])
        assert found.notes == []
        assert name == "caption" or found.value == pytest.approx(found.full_marks)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PAIRED_BY_ORDER])
def test_E6_predictions_of_other_questions_are_no_score(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    strange = [{**line, "question_id": f"other-{n}"} for n, line in enumerate(of.answers)]
    with pytest.raises(DataError, match=r"no prediction is for|is of no category|MME asks no|there is no question"):
        scored(name, of, of.write(tmp_path), strange)


@pytest.mark.parametrize("name", NAMES)
def test_E7_empty_replies_are_told(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    answers = [{**of.answers[0], "text": " "}, *of.answers[1:]]
    assert any("1 replies are empty" in note for note in scored(name, of, of.write(tmp_path), answers).notes)


@pytest.mark.parametrize(
    ("name", "replies", "paper", "lenient_score"),
    [
        ("scienceqa", ("(B)", "A", "b"), 100 / 3, 100),
        ("scienceqa", ("Answer: B", "iron", "**B**"), 0, 100),
        ("seed", ("(A)", "B.", "thing c"), 0, 100),
        ("seed", ("A", "The answer is B", "C) thing c"), 100 / 3, 100),
        ("mmlu", ("A.", "(D)"), 0, 100),
        ("mmlu", ("a", "Answer: D"), 0, 100),
        ("pope", ("yes", "NO", "Yes"), 80, 100),
        ("pope", ("Yes", "No!", "Yes, there is no doubt"), 200 / 4, 100),
        ("pope", ("Yes", "There isn't", "yes"), 80, 100),
    ],
)
def test_E7_replies_that_are_not_read_as_they_are_meant(
    name: str, replies: tuple[str, ...], paper: float, lenient_score: float, material: Get, tmp_path: Path
) -> None:
    of = material(name)
    folder = of.write(tmp_path)
    answers = [{**line, "text": reply} for line, reply in zip(of.answers, replies, strict=True)]
    found = scored(name, of, folder, answers)
    assert found.value == pytest.approx(paper, abs=0.01)
    assert any("not read as they are meant" in note and "reading=lenient" in note for note in found.notes)
    other = scored(name, of, folder, answers, "reading=lenient")
    assert (other.value, other.notes) == (pytest.approx(lenient_score), [])


@pytest.mark.parametrize("name", ["scienceqa", "seed", "mmlu", "pope", "mme", "mmbench", "mmbench_cn"])
def test_E7_how_many_replies_could_not_be_read(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    answers = [{**of.answers[0], "text": "maybe"}, *of.answers[1:]]
    found = scored(name, of, of.write(tmp_path), answers)
    (note,) = found.notes
    for word in ("1 replies ", "maybe", str(of.answers[0]["question_id"])):
        assert word in note


def test_E7_mme_reads_four_characters(material: Get, tmp_path: Path) -> None:
    of = material("mme")
    answers = [{**line, "text": f"The answer is {line['text'].lower()}"} for line in of.answers]
    found = scored("mme", of, of.write(tmp_path), answers)
    assert found.value == 0
    assert "56 replies are not read as they are meant: 'The answer is yes'" in found.notes[0]
    assert scored("mme", of, tmp_path, answers, "reading=lenient").value == 2000


@pytest.mark.parametrize("name", ["vqav2", "gqa", "vizwiz", "textvqa", "vqa"])
def test_E7_the_right_answer_among_other_words_is_told(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    answers = [{**of.answers[0], "text": f"It is {of.answers[0]['text']}."}, *of.answers[1:]]
    (note,) = scored(name, of, of.write(tmp_path), answers).notes
    assert note.startswith("1 wrong replies hold the right answer among other words")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        *[(text, "B") for text in ("B", "b", "(B)", "B.", "B) dog", "**B**", "Answer: B", "The answer is (b).", "dog")],
        *[(text, "B") for text in ("Option B", "It is the dog.", "I think B", "b. dog", "The correct choice is B")],
        *[(text, "") for text in ("", "A or B", "maybe", "I am not sure", "A cat and a dog", "E", "E.")],
        *[(text, "A") for text in ("A", "A cat", "A.", "The answer is a cat", "the answer is A")],
    ],
)
def test_E7_letters_to_a_reader(reply: str, letter: str) -> None:
    assert lenient.letter_of(reply, {"A": "cat", "B": "dog"}) == letter


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        *[(text, "yes") for text in ("yes", "Yes.", "**Yes**", "The answer is yes", "Yes, there is no doubt", "y")],
        *[
            (text, "no")
            for text in ("No", "NO!", "no, it isn't", "There is no dog", "It is not there", "The answer: no")
        ],
        *[(text, "") for text in ("", "maybe", "I am not sure", "yes or no", "It may be yes or may be no", "know")],
    ],
)
def test_E7_yes_and_no_to_a_reader(reply: str, told: str) -> None:
    assert lenient.yes_or_no(reply) == told


class TestE4Captions:
    ROWS = (
        {"image": "a.png", "caption": "A red square on a table."},
        {"image": "a.png", "caption": "There is a square, and it is red."},
        {"image": "a.png", "caption": "On the table lies a square."},
        {"image": "b.png", "caption": "Two green cats sleep here now!"},
        {"image": "b.png", "caption": "A pair of cats."},
        {"image": "b.png", "caption": "Cats, both green."},
    )

    def test_E4_a_row_for_each_caption(self, tmp_path: Path) -> None:
        lists = [
            {"image": name, "captions": [row["caption"] for row in self.ROWS if row["image"] == name]}
            for name in ("a.png", "b.png")
        ]
        answers = [
            {"question_id": name, "text": text} for name, text in (("a.png", "a red square"), ("b.png", "green cats"))
        ]
        scores = []
        for folder, rows in (("one", self.ROWS), ("many", lists)):
            (tmp_path / folder).mkdir()
            data = tmp_path / folder / "captions.jsonl"
            data.write_text("".join(json.dumps(row) + "\n" for row in rows))
            path = tmp_path / f"{folder}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in answers))
            chosen = benchmark("caption")
            scores.append(chosen.score(chosen.read([path]), data))
        assert scores[0].metrics == scores[1].metrics
        assert scores[0].notes == ["4 further rows of 2 pictures: all their captions count"]
        assert len(benchmark("caption").items(tmp_path / "one" / "captions.jsonl", _pictures(tmp_path))) == 2

    @pytest.mark.parametrize("identity", [1, "1"])
    def test_E4_two_pictures_with_one_id(self, identity: Any, tmp_path: Path) -> None:
        rows = [{"id": 1, "image": "a.png", "caption": "x"}, {"id": identity, "image": "b.png", "caption": "y"}]
        data = tmp_path / "captions.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(DataError, match=r"captions\.jsonl:2: the id .* comes a second time, of another picture"):
            benchmark("caption").items(data, _pictures(tmp_path))


def _pictures(folder: Path) -> Path:
    for name in ("a.png", "b.png"):
        (folder / name).touch()
    return folder


def test_E4_doubled_questions_are_refused(material: Get, tmp_path: Path) -> None:
    for name, file, double in (
        ("vqa", "questions.jsonl", lambda rows: [*rows, {**rows[0], "id": str(rows[0]["id"])}]),
        ("seed", "SEED-Bench.json", lambda value: {**value, "questions": value["questions"] * 2}),
        ("vqav2", "v2_mscoco_val2014_annotations.json", lambda value: {"annotations": value["annotations"] * 2}),
    ):
        of = material(name)
        of.files[file] = double(of.files[file])
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=r"second time|two questions have the id"):
            scored(name, of, of.write(tmp_path / name), of.answers)


@pytest.mark.parametrize("name", ["llava_bench", "vicuna80"])
def test_E5_reviews_without_some_questions_are_told(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    folder = of.write(tmp_path)
    reviews = [{"question_id": n, "category": "x", "tuple": [8, 80 if n else 8]} for n in (0, 0, 9)]
    path = folder / "zz_reviews.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in reviews))
    chosen = benchmark(name)
    notes = chosen.score(chosen.read([path]), folder).notes
    assert notes == [
        "2 questions have no review and count nowhere: 1, 2",
        "1 questions have several reviews, all counted: 0",
        "1 reviews are of other questions, and counted: 9",
        "1 of the judge's replies hold marks outside 1 to 10, counted as they are",
    ]


def test_E5_grades_of_mmvet(material: Get, tmp_path: Path) -> None:
    of = material("mmvet")
    folder = of.write(tmp_path)
    path = folder / "zz.json"

    def found(grades: Any) -> Scores:
        path.write_text(json.dumps(grades))
        chosen = benchmark("mmvet")
        return chosen.score(chosen.read([path]), folder)

    one = {f"v1_{n}": {"score": [1.0], "content": ["1.0"]} for n in range(3)}
    assert (found(one).value, found(one).notes) == (100, [])
    two = {**one, "v1_0": {"score": [1.0, 0.0], "content": ["1.0", "0.0"]}}
    assert found(two).notes == ["1 questions have more than 1 grades, the others left out: v1_0"]
    for grades, message in (
        ({**one, "v1_1": "a cat"}, "v1_1: a reply among grades"),
        ({**one, "v1_1": {"score": [5]}}, "v1_1: a grade of 5"),
        ({"v1_0": one["v1_0"]}, "2 questions have no answer: v1_1, v1_2"),
    ):
        with pytest.raises(DataError, match=message):
            found(grades)


def test_E5_mmbench_an_upload_without_replies_is_wrong_there(tmp_path: Path) -> None:
    table = "index\tquestion\tA\tB\tanswer\tprediction\n7\tWhat?\tcat\tdog\tA\tA\n1000007\tWhat?\tdog\tcat\tB\t\n"
    path = tmp_path / "upload.tsv"
    path.write_text(table)
    chosen = benchmark("mmbench")
    (tmp_path / "empty").mkdir()
    found = chosen.score(chosen.read([path]), tmp_path / "empty")
    assert (found.value, "1 rows without a reply, wrong: 1000007" in found.notes) == (0, True)


def test_E5_mmbench_rotations_that_the_table_lacks_are_told(material: Get, tmp_path: Path) -> None:
    of = material("mmbench")
    (name,) = of.files
    of.files[name] = "".join(line for line in of.files[name].splitlines(keepends=True) if "1000007" not in line)
    answers = [line for line in of.answers if line["question_id"] != 1000007]
    (note,) = scored("mmbench", of, of.write(tmp_path), answers).notes
    assert note.startswith("1 questions are in the table in fewer rotations than they have options")


def test_E5_pope_paired_by_id_counts_a_missing_reply_as_wrong(material: Get, tmp_path: Path) -> None:
    of = material("pope")
    found = scored("pope", of, of.write(tmp_path), of.answers[1:], "pairing=id")
    assert found.metrics["random"]["false_negatives"] == 1
    assert found.notes == ["random: 1 questions without a reply, wrong: 1"]
