"""`lensmith data check` and `data preview`, as a user runs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensmith.assembly import assemble
from lensmith.cli import main
from lensmith.data.batch import collate
from lensmith.data.reader import RowReader
from lensmith.data.sources import Mixture
from lensmith.spec.run import DataSpec

Lensmith = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lensmith(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Lensmith:
    """Run a command in this process: exit code, output and messages."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lensmith", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capfd.readouterr()

    return run


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.fixture
def with_rows(spec: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """The shared spec with one stage over these rows (or lines) and further settings of its data."""

    def write(rows: list[Any], **data: Any) -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
        stage = {**spec["stages"]["align"], "data": {"sources": [str(folder / "rows.jsonl")], **data}}
        file = tmp_path / "spec.json"
        file.write_text(json.dumps({"model": spec["model"], "stages": {"only": stage}}))
        return file

    return write


def many_rows(folder: Path, count: int) -> list[dict[str, Any]]:
    """Every seventh cannot be used."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (30, 20), "red").save(folder / "red.png")
    good = {"image": "red.png", "conversations": turns("<image>?", "red")}
    bad = {"image": "red.png", "conversations": turns("no picture", "red")}
    return [{"id": f"r{number}", **(bad if number % 7 == 3 else good)} for number in range(count)]


class TestCheck:
    def test_good_rows(self, lensmith: Lensmith, spec_file: Path, rows: Path) -> None:
        code, out, _ = lensmith("data", "check", spec_file, "--json", "--stage", "align")
        assert code == 0
        model = assemble(spec_file)
        mixture = Mixture(DataSpec.model_validate({"sources": [str(rows)]}))
        tokenizer = model.language_model.tokenizer
        reader = RowReader(mixture, model.conversation, tokenizer, 256, model.pictures)
        samples = [reader.sample(index) for index in range(14)]
        assert json.loads(out) == {
            "align": {
                "rows": 14,
                "pictures": 12,
                "text_only": 2,
                "truncated": 0,
                "positions": sum(len(sample.ids) for sample in samples),
                "supervised": collate(samples, tokenizer.pad_id).target_count,
                "longest": max(len(sample.ids) for sample in samples),
                "problems": [],
                "notes": [],
            }
        }

    def test_for_people(self, lensmith: Lensmith, spec_file: Path) -> None:
        code, out, err = lensmith("data", "check", spec_file)
        assert (code, err) == (0, "")
        assert "stage align: 14 rows, all can be used; 12 pictures, 2 rows without" in out
        assert "stage tune: 14 rows, all can be used" in out
        assert "% supervised; longest row" in out

    def test_every_problem_with_its_place(
        self, lensmith: Lensmith, with_rows: Callable[..., Path], tmp_path: Path
    ) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        Image.new("RGB", (30, 20), "red").save(folder / "red.png")
        (folder / "broken.png").write_bytes((folder / "red.png").read_bytes()[:40])
        (folder / "page.jpg").write_text("<html>gone</html>")
        shown = turns("<image>\n?", "red")
        rows: list[Any] = [
            {"id": "good", "image": "red.png", "conversations": shown},
            '{"id": "cut", "conversations": [',
            "",
            {"id": "missing", "image": "gone.png", "conversations": shown},
            {"id": "broken", "image": "broken.png", "conversations": shown},
            {"id": "page", "image": "page.jpg", "conversations": shown},
            {"id": "outside", "image": "../rows.jsonl", "conversations": shown},
            {"id": "roles", "conversations": [*turns("a", "b")[:1], *turns("c", "d")]},
            {"id": "silent", "conversations": turns("a", "")},
            {"id": "unplaced", "image": "red.png", "conversations": turns("?", "red")},
            {"conversations": [{"from": "system", "value": "x"}]},
            ["not", "an", "object"],
            {"id": "long", "image": "red.png", "conversations": turns("<image>", "very " * 300)},
            {"id": "text", "conversations": turns("Hi", "Hello")},
        ]
        code, out, err = lensmith("data", "check", with_rows(rows, long_rows="error"), "--jobs", "2")
        assert code == 2
        assert "stage only: 13 rows, 11 cannot be used; " in out
        file = folder / "rows.jsonl"
        told = [line.strip() for line in err.splitlines()]
        expected = [
            f"{file}:2: not valid JSON",
            f"{file}:4: row 'missing': {folder}/gone.png",
            f"{file}:5: row 'broken': {folder}/broken.png",
            f"{file}:6: row 'page': {folder}/page.jpg",
            f"{file}:7: row 'outside': ",
            f"{file}:8: row 'roles' turns 0 and 1 are both user's",
            f"{file}:9: row 'silent' has nothing to learn",
            f"{file}:10: row 'unplaced' has 1 picture but 0 <image>",
            f"{file}:11: row '9' turn 0 is from 'system'",
            f"{file}:12: row '10' is a list, not an object",
            f"{file}:13: row 'long': takes ",
        ]
        assert len(told) == len(expected)
        for line, start in zip(told, expected, strict=True):
            assert line.startswith(start), line

    def test_processes_find_the_same(self, lensmith: Lensmith, with_rows: Callable[..., Path], tmp_path: Path) -> None:
        spec = with_rows(many_rows(tmp_path / "data", 200))
        reports = []
        for jobs in ("1", "3"):
            code, out, _ = lensmith("data", "check", spec, "--json", "--jobs", jobs)
            assert code == 2
            reports.append(json.loads(out)["only"])
        assert reports[0] == reports[1]
        assert reports[0]["rows"] == 200
        assert [int(problem.split(":")[1]) for problem in reports[0]["problems"]] == list(range(4, 201, 7))

    def test_N13_people_are_shown_each_reason_once(
        self, lensmith: Lensmith, with_rows: Callable[..., Path], tmp_path: Path
    ) -> None:
        _, _, err = lensmith("data", "check", with_rows(many_rows(tmp_path / "data", 400)))
        assert len(err.splitlines()) == 2
        assert "(and 56 more like it)" in err
        assert "(--json lists them all)" in err

    def test_pictures_can_be_left_out(self, lensmith: Lensmith, with_rows: Callable[..., Path], tmp_path: Path) -> None:
        spec = with_rows([{"id": "a", "image": "gone.png", "conversations": turns("<image>", "red")}])
        assert lensmith("data", "check", spec)[0] == 2
        code, out, _ = lensmith("data", "check", spec, "--no-pictures", "--json")
        assert code == 0
        assert json.loads(out)["only"]["pictures"] == 1

    @pytest.mark.parametrize(("how", "code"), [("truncate", 0), ("skip", 0), ("error", 2)])
    def test_long_rows(
        self, lensmith: Lensmith, with_rows: Callable[..., Path], tmp_path: Path, how: str, code: int
    ) -> None:
        rows = [
            {"id": "short", "conversations": turns("a", "b")},
            {"id": "long", "conversations": turns("a", "b " * 99)},
        ]
        found, out, _ = lensmith("data", "check", with_rows(rows, max_length=40, long_rows=how), "--json")
        report = json.loads(out)["only"]
        assert found == code
        assert (report["rows"], report["truncated"], len(report["problems"])) == (2, 1, code // 2)
        assert report["longest"] > 100
        assert (report["positions"] > 40) == (how == "truncate")
        assert report["supervised"] <= report["positions"] <= 80

    def test_what_it_says_is_what_training_meets(
        self, lensmith: Lensmith, with_rows: Callable[..., Path], tmp_path: Path
    ) -> None:
        """A cut that would fall into a picture, or leave no answer, is a problem under `truncate` too."""
        (tmp_path / "data").mkdir()
        Image.new("RGB", (30, 20)).save(tmp_path / "data" / "a.png")
        rows = [
            {"id": "late", "image": "a.png", "conversations": [*turns("x" * 60, "b"), *turns("<image>", "c")]},
            {"id": "asked", "conversations": turns("x" * 60, "b")},
        ]
        code, out, _ = lensmith("data", "check", with_rows(rows, max_length=40), "--json")
        assert code == 2
        first, second = json.loads(out)["only"]["problems"]
        assert (
            ":1: row 'late': takes more than max_length = 40 positions and the cut would fall into a picture" in first
        )
        assert ":2: row 'asked': has nothing to learn within max_length = 40 positions" in second

    def test_mistakes_of_the_command(self, lensmith: Lensmith, spec_file: Path, rows: Path) -> None:
        code, _, err = lensmith("data", "check", spec_file, "--stage", "polish")
        assert (code, err) == (2, "error: there is no stage 'polish'; stages: align, tune\n")
        code, _, err = lensmith("data", "check", spec_file, f"stages.align.data.sources.0.path={rows}x")
        assert code == 2
        assert err.startswith("error: ")
        assert f"{rows}x does not exist" in err


class TestPreview:
    def test_exact_fields(self, lensmith: Lensmith, spec_file: Path) -> None:
        code, out, err = lensmith("data", "preview", spec_file, "--json")
        assert (code, err) == (0, "")
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["id"] for line in lines] == [*(f"row-{n}" for n in range(12)), "text-0", "text-1"]
        tokenizer = assemble(spec_file).language_model.tokenizer
        first, text = lines[0], lines[12]
        assert list(first) == ["id", "prompt", "input_ids", "supervised", "status", "reason"]
        assert (first["status"], first["reason"]) == ("ok", "")
        assert first["prompt"] == (
            "<|im_start|>user\n<image>\nWhat colour is it?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
        )
        assert first["input_ids"].count(-200) == 1
        ((start, end),) = first["supervised"]
        learnt = first["input_ids"][start:end]
        assert learnt[-1] == tokenizer.eos_id
        assert tokenizer.decode(learnt) == "red"
        ((start, end),) = text["supervised"]
        assert tokenizer.decode(text["input_ids"][start:end]) == "it is 0"
        assert -200 not in text["input_ids"]

    def test_it_is_what_is_trained_on(self, lensmith: Lensmith, spec_file: Path, rows: Path) -> None:
        _, out, _ = lensmith("data", "preview", spec_file, "--json")
        model = assemble(spec_file)
        tokenizer = model.language_model.tokenizer
        mixture = Mixture(DataSpec.model_validate({"sources": [str(rows)]}))
        reader = RowReader(mixture, model.conversation, tokenizer, 256, model.pictures)
        for index, line in enumerate(map(json.loads, out.splitlines())):
            sample = reader.sample(index)
            ids = [i for p, i in enumerate(sample.ids) if p not in sample.image_positions]
            assert [i for i in line["input_ids"] if i != -200] == ids
            learnt = [i for start, end in line["supervised"] for i in line["input_ids"][start:end]]
            assert learnt == [target for target in sample.targets if target != -100]

    def test_rows_that_are_skipped_say_why(self, lensmith: Lensmith, with_rows: Callable[..., Path]) -> None:
        spec = with_rows(
            [
                {"id": "silent", "conversations": turns("a", "")},
                '{"id": "cut"',
                {"id": 7, "conversations": []},
                {"id": None, "conversations": []},
                {"id": "last", "conversations": turns("a", "b")},
            ]
        )
        code, out, _ = lensmith("data", "preview", spec, "--json")
        assert code == 0
        silent, cut, seven, third, last = map(json.loads, out.splitlines())
        assert (silent["id"], silent["status"], silent["supervised"]) == ("silent", "skipped", [])
        assert silent["input_ids"]  # what it would have been
        assert "rows.jsonl:1: row 'silent' has nothing to learn" in silent["reason"]
        assert (cut["id"], cut["status"], cut["prompt"], cut["input_ids"]) == ("1", "skipped", "", [])
        assert "rows.jsonl:2: not valid JSON" in cut["reason"]
        assert (seven["id"], seven["status"]) == ("7", "skipped")
        assert "rows.jsonl:3: row '7' has no `conversations`" in seven["reason"]
        assert third["id"] == "3"
        assert (last["id"], last["status"]) == ("last", "ok")

    def test_limits_and_other_rows(self, lensmith: Lensmith, spec_file: Path, tmp_path: Path) -> None:
        _, out, _ = lensmith("data", "preview", spec_file, "--json", "--limit", "3")
        assert len(out.splitlines()) == 3
        other = tmp_path / "other.json"
        other.write_text(json.dumps([{"id": "other", "conversations": turns("Hi", "Ho")}]))
        _, out, _ = lensmith("data", "preview", spec_file, "--json", "--rows", other)
        assert [json.loads(line)["id"] for line in out.splitlines()] == ["other"]

    def test_for_people(self, lensmith: Lensmith, spec_file: Path) -> None:
        code, out, _ = lensmith("data", "preview", spec_file, "--stage", "tune")
        assert code == 0
        assert out.count("ok") >= 5
        assert "row-4" in out
        assert "row-5" not in out
        assert "<image>" in out
        assert "What colour is it?" in out

    def test_a_picture_is_not_needed(self, lensmith: Lensmith, with_rows: Callable[..., Path]) -> None:
        spec = with_rows([{"id": "a", "image": "gone.png", "conversations": turns("<image>", "red")}])
        _, out, _ = lensmith("data", "preview", spec, "--json")
        assert json.loads(out)["status"] == "ok"


# Here a picture that no turn shows is a mistake of the row; the original goes on without showing it.
REFUSED_HERE = {"q_image_key_no_token"}


@pytest.mark.parametrize("tokenizer", ["vicuna_v1_5", "vicuna_v1_3"])
def test_rows_become_what_the_original_makes_of_them(
    lensmith: Lensmith, shared: Path, tmp_path: Path, tokenizer: str
) -> None:
    """LLaVA-1.5's template on samples that probe it: prompt and ids of all, labels where the original kept them."""
    golden = shared / "golden"
    cases = {case["id"]: case["sample"] for case in json.loads((golden / "tokens/cases.json").read_text())}
    records = {
        record["id"]: record
        for record in json.loads((golden / f"tokens/v1__{tokenizer}__len2048.json").read_text())["records"]
    }
    rows = []
    for name, sample in cases.items():
        row = {**sample, "id": name}
        human = [turn["value"].count("<image>") for turn in sample["conversations"] if "image" in sample]
        if sum(1 for count in human if count) > 1:
            row["image"] = [sample["image"]] * sum(1 for count in human if count)
        rows.append(row)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    spec = {
        "model": {
            "vision_encoder": {"name": "clip", "config": str(golden / "model/tiny_clip/config.json")},
            "image_splitter": "pad",
            "connector": "mlp",
            "language_model": {
                "name": "vicuna",
                "config": str(golden / "model/tiny_llama/config.json"),
                "tokenizer": str(shared / "tokenizer" / tokenizer),
                "parse_special_text": True,
            },
            "conversation": "vicuna_v1",
        },
        "stages": {"tune": {"tuner": "full", "data": {"sources": [str(tmp_path / "rows.json")]}}},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    code, out, err = lensmith("data", "preview", tmp_path / "spec.json", "--json")
    assert (code, err) == (0, "")
    found = {line["id"]: line for line in map(json.loads, out.splitlines())}
    assert list(found) == list(cases)

    compared = {"prompt": 0, "labels": 0, "refused": 0}
    for name, record in records.items():
        ours = found[name]
        if "error" in record or name in REFUSED_HERE:
            assert ours["status"] == "skipped", name
            assert ours["reason"], name
            compared["refused"] += 1
            continue
        assert ours["prompt"] == record["prompt"], name
        assert ours["input_ids"] == record["input_ids"], name
        compared["prompt"] += 1
        if record["mismatch"] is None:
            assert ours["supervised"] == record["target_spans"], name
            assert ours["status"] == ("ok" if record["target_spans"] else "skipped"), name
            compared["labels"] += 1
    assert sum(compared[key] for key in ("prompt", "refused")) == len(records)
    assert compared["labels"] >= 30
