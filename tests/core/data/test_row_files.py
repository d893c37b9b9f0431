"""Files of rows that are something else, and rows that fail later: told before a stage starts, each reason once."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from lensmith.cli.app import app
from lensmith.data.grouping import grouped, told
from lensmith.data.pictures import PictureError, resolve_inside
from lensmith.data.sources import Mixture, RowFile
from lensmith.errors import DataError, LensmithError
from lensmith.spec.run import DataSpec

TURNS = [{"from": "human", "value": "<image>\nWhat colour is it?"}, {"from": "gpt", "value": "red"}]
ROW = {"id": "r", "image": "a.png", "conversations": TURNS}


def mixture(path: Path, **options: Any) -> Mixture:
    return Mixture(DataSpec.model_validate({"sources": [{"path": path, **options}]}))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        mixture(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(options.get("images", path)))
    assert len(text) < 700
    return text


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("0.json")
        tar.addfile(info, io.BytesIO())
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.png", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b"[]", "holds no rows"),
        ("rows.json", b" [ \n ] ", "holds no rows"),
        ("rows.jsonl", b"", "is empty"),
        ("rows.jsonl", b"\n \n", "is empty"),
        ("rows.jsonl.gz", gzip.compress(lines(ROW)), "a gzip file"),
        ("rows.parquet", b"PAR1" + bytes(40), "a Parquet file"),
        ("rows.tar", archive(), "a tar archive"),
        ("rows.zip", zipped(), "a ZIP archive"),
        ("rows.json", json.dumps([ROW]).encode("utf-16"), "UTF-16"),
        ("rows.json", b"<!DOCTYPE html><html>", "a web page"),
        ("rows.json", json.dumps({"data": [ROW] * 4, "version": 1}, indent=2).encode(), "4 objects in its `data`"),
        ("rows.json", json.dumps({"data": [ROW] * 4}).encode(), "4 objects in its `data`"),
        ("rows.json", json.dumps(ROW, indent=2).encode(), "one row over several lines"),
        ("rows.json", json.dumps({"1": ROW, "2": ROW}, indent=1).encode(), "2 rows by name"),
        ("rows.json", (json.dumps(ROW, indent=2) + "\n" + json.dumps(ROW, indent=2)).encode(), "jq -c ."),
    ],
)
def test_D7_D11_a_file_that_is_something_else_is_told_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refused(path)


def test_D11_a_folder_of_images_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(ROW))
    (tmp_path / "images.zip").write_bytes(zipped())
    assert "is a ZIP archive, not a folder; unpack it" in refused(path, images=tmp_path / "images.zip")
    assert "does not exist" in refused(path, images=tmp_path / "none")


def test_A10_rows_in_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    assert "is a pipe" in refused(tmp_path / "rows.jsonl")
    assert "is a folder" in refused(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"id": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"conversations": ' + "[" * 1000 + "]" * 1000 + "}",
        '{"id": "\\ud800"}',
        '{"id": 1, "id": 2}',
        '{"id": NaN}',
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_D7_A5_a_row_that_is_refused_names_file_and_line(tmp_path: Path, text: str, listed: bool) -> None:
    path = tmp_path / "rows.json"
    if listed and text == "[" * 100_000:
        text += "]" * 100_000
    whole = f"[{json.dumps(ROW)},\n{text}\n]" if listed else f"{json.dumps(ROW)}\n{text}\n"
    path.write_text(whole)
    rows = RowFile(path)
    assert rows[0] == ROW
    with pytest.raises(DataError, match=r"rows\.json:2: "):
        rows[1]


def test_rows_that_change_while_they_are_read_say_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(ROW, ROW))
    rows = RowFile(path)
    path.write_bytes(lines({"id": 1}, ROW, ROW))
    with pytest.raises(DataError, match="changed while it was read"):
        rows[1]


def test_D9_links_of_the_user_are_followed_and_rows_cannot_climb_out(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"x")
    root = tmp_path / "playground"
    root.mkdir()
    (root / "coco").symlink_to(elsewhere)
    (root / "one.png").symlink_to(elsewhere / "a.png")
    assert resolve_inside(root, "coco/a.png") == (elsewhere / "a.png").resolve()
    assert resolve_inside(root, "one.png") == (elsewhere / "a.png").resolve()
    for name in ("../elsewhere/a.png", "coco/../../x", str(elsewhere / "a.png"), "coco\\..\\x", "", ".", "a\0b"):
        with pytest.raises(PictureError):
            resolve_inside(root, name)
    with pytest.raises(PictureError) as caught:
        resolve_inside(root, "x" * 12_299)
    assert len(str(caught.value)) < 400


def test_N13_equal_reasons_are_told_once() -> None:
    messages = [f"rows.json[{n}]: row 'r{n}': /data/{n}.png: there is no such file; check" for n in range(50)]
    messages.insert(7, "rows.json[9]: row 'x' has nothing to learn")
    assert [count for _, count in grouped(messages)] == [50, 1]
    assert told(messages) == [f"{messages[0]} (and 49 more like it)", messages[7]]
    assert told([f"{'x' * n}" for n in range(1, 9)], limit=2)[-1] == "… and 6 more, for 6 other reasons"


@pytest.fixture
def prepared(spec: dict[str, Any], tmp_path: Path) -> Any:
    """A spec file of one stage, from rows and options of its data."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (30, 30), (200, 10, 10)).save(folder / "a.png")

    def make(rows: list[Any], stage: dict[str, Any] | None = None, **source: Any) -> Path:
        (folder / "rows.jsonl").write_bytes(lines(*rows))
        data = {"sources": [{"path": str(folder / "rows.jsonl"), **source}], **(stage or {})}
        made = {"tuner": "frozen", "data": data, "lr": 1e-3, "batch": {"size": 2}, "precision": "fp32"}
        file = tmp_path / "run.json"
        file.write_text(json.dumps({"model": spec["model"], "stages": {"only": made}}))
        return file

    return make


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, (SystemExit, LensmithError))
    said = result.output + (str(result.exception) if isinstance(result.exception, LensmithError) else "")
    return (2 if isinstance(result.exception, LensmithError) else result.exit_code), said


def test_N13_a_wrong_image_root_is_found_by_check_dry_run_and_data_check(prepared: Any, tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    rows = [{**ROW, "id": n, "image": f"{n}.png"} for n in range(60)]
    file = prepared(rows, images=str(tmp_path / "wrong"))
    code, said = run("data", "check", file)
    assert code == 2
    assert said.count("there is no such file") == 1
    assert "(and 59 more like it)" in said
    code, said = run("train", file, "--dry-run")
    assert code == 2
    assert "none of the first 60 pictures" in said
    code, said = run("check", file)
    assert code == 2
    assert "stages.only.data.sources.0.images" in said
    assert "none of the first 60 pictures" in said
    assert run("check", prepared([{**ROW, "id": n} for n in range(60)]))[0] == 0
    (tmp_path / "wrong" / "7.png").write_bytes(b"not an image")
    there = prepared([{**ROW, "image": "7.png"}], images=str(tmp_path / "wrong"))
    assert run("check", there)[0] == 0  # which looks at names alone
    code, said = run("train", there, "--dry-run")
    assert code == 2
    assert "1 of the first 1 pictures cannot be used" in said
    some = prepared(rows[6:9], {"bad_rows": "skip"}, images=str(tmp_path / "wrong"))
    assert run("check", some)[0] == 0
    assert run("check", some, "stages.only.data.bad_rows=error")[0] == 2


def test_D8_rows_that_cannot_fit_are_found_before_the_stage(prepared: Any) -> None:
    question = "<image>\n" + "What colour is it? " * 60
    long = {**ROW, "id": "long", "conversations": [{"from": "human", "value": question}, TURNS[1]]}
    file = prepared([ROW, long], {"max_length": 40})
    code, said = run("train", file, "--dry-run")
    assert code == 2
    assert "row 'long': has nothing to learn within max_length = 40 positions" in said
    assert run("data", "check", file)[0] == 2
    late = {**ROW, "id": "late", "conversations": [{"from": "human", "value": "x " * 60 + "<image>"}, TURNS[1]]}
    code, said = run("train", prepared([ROW, late], {"max_length": 40, "image_placement": "keep"}), "--dry-run")
    assert code == 2
    assert "the cut would fall into a picture" in said
    code, said = run("train", prepared([ROW, long], {"max_length": 40, "long_rows": "error"}), "--dry-run")
    assert code == 2
    assert "max_length is 40" in said
    code, said = run("train", prepared([long, long], {"max_length": 40, "long_rows": "skip"}), "--dry-run")
    assert code == 2
    assert "every row is longer than max_length" in said
    code, said = run("train", prepared([ROW, long], {"max_length": 40, "bad_rows": "skip"}), "--dry-run")
    assert code == 0
    assert "left out   1 rows" in said


def test_N14_N18_preview_and_data_check_tell_the_whole(prepared: Any) -> None:
    twice = {**ROW, "id": "twice", "conversations": [{"from": "human", "value": "<image><image>What?"}, TURNS[1]]}
    code, said = run("data", "check", prepared([ROW, twice]))
    assert code == 0
    assert "row 'twice' writes <image> more than once" in said
    broken = {"id": "broken", "tools": [{"name": "f"}], "conversations": TURNS}
    code, said = run("data", "preview", prepared([broken]))
    assert "or name the key in the source's `ignore`" in said.replace("\n", " ")


def test_D10_system_and_loss_are_used(prepared: Any) -> None:
    turns = [*TURNS, {"from": "human", "value": "And?"}, {"from": "gpt", "value": "green", "loss": False}]
    row = {**ROW, "system": "Answer in a word.", "conversations": turns}
    code, said = run("data", "preview", prepared([row]), "--json")
    assert code == 0
    entry = json.loads(said.splitlines()[0])
    assert "Answer in a word." in entry["prompt"]
    assert len(entry["supervised"]) == 1
    plain = json.loads(
        run("data", "preview", prepared([{**ROW, "conversations": turns[:2]}]), "--json")[1].splitlines()[0]
    )
    learnt = plain["supervised"][0]
    assert entry["supervised"][0][1] - entry["supervised"][0][0] == learnt[1] - learnt[0]
    for answer in turns[1::2]:
        answer["loss"] = False
    code, said = run("data", "check", prepared([row]))
    assert code == 2
    assert "none of its answers is learnt" in said


def test_A13_files_that_change_are_noticed(prepared: Any, tmp_path: Path) -> None:
    from lensmith.training.changes import SourceWatch

    prepared([ROW, ROW])
    folder = tmp_path / "data"

    class Reader:
        def __init__(self) -> None:
            self.mixture = mixture(folder / "rows.jsonl")

        def row(self, index: int) -> Any:
            from lensmith.data.rows import parse_row

            return parse_row(self.mixture.sources[0].rows[index], number=index)

    time.sleep(0.05)
    watch = SourceWatch(Reader())  # type: ignore[arg-type]
    watch.after_step(1, 1)
    watch.after_step(2, 1)
    assert watch.record() == {}
    time.sleep(0.05)
    Image.new("RGB", (30, 30)).save(folder / "a.png")
    with (folder / "rows.jsonl").open("ab") as file:
        file.write(lines(ROW))
    watch.after_step(3, 1)  # in the middle of an epoch of two rows
    assert watch.record() == {}
    watch.after_step(4, 1)
    said = watch.record()["changed_while_training"]
    assert said["rows"] == [{"path": str(folder / "rows.jsonl"), "noticed_at_step": 4}]
    assert said["images"] == {"count": 1, "first": [{"path": str(folder / "a.png"), "noticed_at_step": 4}]}
    (folder / "a.png").unlink()
    watch.look(5)
    assert watch.record()["changed_while_training"] == said
