"""What is worked out once about a file of rows: found again, never stale, kept wherever it can be."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensmith import parts
from lensmith.data import columns, index
from lensmith.data.reader import RowReader
from lensmith.data.sources import Mixture, RowFile
from lensmith.data.survey import survey
from lensmith.errors import DataError
from lensmith.files import sha256
from lensmith.io.json import JsonError, parse_json
from lensmith.spec.build import load_spec
from lensmith.spec.run import DataSpec


@pytest.fixture(autouse=True)
def small_files_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(columns, "WORTH_KEEPING", 0)
    monkeypatch.setenv("LENSMITH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows" / "a.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"id": n}) + "\n" for n in range(5)))
    return path


def kept(folder: Path) -> list[str]:
    return sorted(path.name.split(".")[2] for path in folder.glob("*.npy"))


class TestKeeping:
    def test_it_is_made_once_and_mapped_ever_after(self, file: Path) -> None:
        made = []

        def make() -> columns.Column:
            made.append(1)
            return np.arange(5)

        first = columns.column(file, "some", make)
        again = columns.column(file, "some", make)
        assert made == [1]
        assert isinstance(again, np.memmap)
        assert again.tolist() == first.tolist() == list(range(5))
        columns.column(file, "other", make)
        assert len(made) == 2
        assert kept(file.parent / ".lensmith") == ["other", "some"]

    def test_purposes_that_take_turns_are_all_kept(self, file: Path) -> None:
        made: list[str] = []

        def ask(*purposes: str) -> None:
            for purpose in purposes:
                columns.column(
                    file, "some", lambda purpose=purpose: np.arange(len(made.append(purpose) or made)), purpose
                )

        ask("one", "two", "one", "two")
        assert made == ["one", "two"]
        for number in range(20):  # of very many the oldest go
            ask(f"more {number}")
            time.sleep(0.002)
        assert len(kept(file.parent / ".lensmith")) == 8
        made.clear()
        ask("more 19", "more 13", "one")
        assert made == ["one"]
        file.write_text(file.read_text() + "{}\n" * 3)
        ask("one")
        assert len(kept(file.parent / ".lensmith")) == 1  # nothing is kept of what the file was

    def test_the_file_is_untouched(self, file: Path) -> None:
        before = (file.stat(), file.read_bytes())
        RowFile(file)
        assert (file.stat(), file.read_bytes()) == before

    def test_small_files_have_none(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(columns, "WORTH_KEEPING", 1 << 20)
        assert len(RowFile(file)) == 5
        assert not (file.parent / ".lensmith").exists()

    def test_a_folder_that_cannot_be_written(self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (file.parent / ".lensmith").write_text("in the way")
        assert len(RowFile(file)) == 5
        (folder,) = (tmp_path / "cache" / "rows").iterdir()
        assert kept(folder) == ["rows"]
        monkeypatch.setattr(index, "_of_lines", None)
        assert len(RowFile(file)) == 5  # found there again

    def test_nowhere_to_keep_it(self, file: Path, tmp_path: Path) -> None:
        (file.parent / ".lensmith").write_text("in the way")
        (tmp_path / "cache").write_text("in the way")
        assert [row["id"] for row in RowFile(file)] == list(range(5))

    @pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"\x80\x04."])
    def test_one_that_is_damaged_is_made_again(self, file: Path, damage: bytes) -> None:
        RowFile(file)
        (npy,) = (file.parent / ".lensmith").glob("*.npy")
        npy.write_bytes(damage or npy.read_bytes()[:-1])
        assert [row["id"] for row in RowFile(file)] == list(range(5))
        assert len(np.load(npy)) == 5

    def test_what_a_kill_left_is_not_read(self, file: Path) -> None:
        (file.parent / ".lensmith").mkdir()
        (file.parent / ".lensmith" / ".writing-x").write_bytes(b"half")
        assert len(RowFile(file)) == 5


class TestChanges:
    @pytest.mark.parametrize("content", ['{"id": 9}\n' * 5, '{"id": 1}\n', '[{"id": 1}]'])
    def test_another_content(self, file: Path, content: str) -> None:
        """The first has as many bytes as before, and its time is set back."""
        RowFile(file)
        before = file.stat()
        file.write_text(content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        expected = json.loads(content) if content[0] == "[" else [json.loads(line) for line in content.splitlines()]
        assert list(RowFile(file)) == expected
        assert len(kept(file.parent / ".lensmith")) == 1

    def test_while_it_is_worked_out(self, file: Path) -> None:
        def make() -> columns.Column:
            file.write_text("{}\n")
            return np.arange(5)

        columns.column(file, "some", make)
        assert not list((file.parent / ".lensmith").glob("*"))

    def test_the_hash_is_that_of_the_content(self, file: Path) -> None:
        first = columns.content_hash(file, sha256)
        assert first == columns.content_hash(file, sha256) == sha256(file)
        file.write_text("{}\n")
        assert columns.content_hash(file, sha256) == sha256(file) != first

    def test_a_list_that_became_bad(self, tmp_path: Path) -> None:
        path = tmp_path / "b.json"
        path.write_text('[{"id": 1},\n {"id": 2}]')
        assert len(RowFile(path)) == 2
        path.write_text('[{"id": 1},\n {"id": 2,}]')
        for _ in range(2):
            with pytest.raises(DataError, match=r"b\.json:2: not valid JSON: "):
                RowFile(path)


def test_processes_that_come_together(file: Path) -> None:
    """One makes it, the others wait for it."""
    script = f"""
import time
from pathlib import Path
import numpy as np
from lensmith.data import columns
columns.WORTH_KEEPING = 0
def make():
    print("made", flush=True)
    time.sleep(0.5)
    return np.arange(3)
assert columns.column(Path({str(file)!r}), "some", make).tolist() == [0, 1, 2]
"""
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert "".join(told) == "made\n"


class TestLists:
    @pytest.mark.parametrize("step", [1, 2, 3, 7, 1 << 22])
    def test_any_json(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        """Borders that fall anywhere, texts full of brackets, quotes and backslashes."""
        monkeypatch.setattr(columns, "WORTH_KEEPING", 1 << 20)
        monkeypatch.setattr(index, "_STEP", step)
        draw = random.Random(step)

        def value(depth: int = 0) -> Any:
            kind = draw.random()
            if depth > 3 or kind < 0.5:
                return "".join(draw.choice('ab"\\{}[],:\n\té東 \u2028/') for _ in range(draw.randrange(9)))
            if kind < 0.6:
                return draw.choice([1, -2.5, None, True])
            if kind < 0.8:
                return [value(depth + 1) for _ in range(draw.randrange(4))]
            return {value(9): value(depth + 1) for _ in range(draw.randrange(4))}

        path = tmp_path / "a.json"
        for _ in range(150):
            rows = [value() for _ in range(draw.randrange(5))]
            text = json.dumps(rows, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 1]))
            path.write_text(draw.choice(["", "\ufeff", " \n"]) + text + draw.choice(["", " \n"]), encoding="utf-8")
            assert list(RowFile(path)) == rows
            broken = bytearray(path.read_bytes())
            place = draw.randrange(broken.index(b"["), len(broken))
            broken[place : place + 1] = draw.choice(["", '"', "\\", "]", "}", ",", "["]).encode()
            path.write_bytes(broken)
            try:
                expected = parse_json(bytes(broken), "")
            except JsonError:
                expected = None
            if isinstance(expected, list):
                assert list(RowFile(path)) == expected
            elif broken.lstrip(index.BLANK).startswith(b"["):
                with pytest.raises(DataError, match=r"a\.json(:\d+)?: (not (valid JSON|UTF-8)|.* appears twice)"):
                    list(RowFile(path))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('[{"id": 1},\n{"id": 2}\n', ":3: not valid JSON: the list does not end"),
            ('[{"id": 1},\n{"id": "2}]\n', ":2: not valid JSON: Invalid control character"),
            ('[{"id": 1},\n{"id: 2},\n{"id": 3}]\n', ":2: not valid JSON: "),
            ('[{"id": 1}]\n\n{"id": 2}', ":3: not valid JSON: brackets do not match, or there is more than one list"),
            ('[{"id": 1},\n{"id": 2}},\n{"id": 3}]', ":2: not valid JSON: something follows the value"),
            ('[{"id": 1}]\n\nx', ":3: not valid JSON: something follows the list"),
            ('[{"id": 1},\n]', ":2: not valid JSON: Expecting value"),
        ],
    )
    def test_mistakes_are_told_with_their_line(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "a.json"
        path.write_text(content)
        with pytest.raises(DataError) as caught:
            RowFile(path)
        assert f"{path}{message}" in str(caught.value)


class TestSurvey:
    @pytest.fixture
    def reader(self, spec: dict[str, Any], rows: Path, tmp_path: Path) -> RowReader:
        copied = tmp_path / "rows.jsonl"
        copied.write_text(rows.read_text() + '{"id": "bad", "conversations": []}\n')
        loaded = load_spec(spec)
        data = DataSpec.model_validate({"sources": [{"path": copied, "images": rows.parent}]})
        return RowReader(Mixture(data), parts.conversation(loaded.model), parts.tokenizer(loaded.model), 0)

    def test_it_says_what_each_row_comes_to(self, reader: RowReader) -> None:
        texts = reader.survey()
        for number, (ids, images, supervised, first, before, last) in enumerate(texts.tolist()[:-1]):
            encoded = reader.encoded(number)
            assert ids + images == len(encoded.ids)
            assert images == encoded.ids.count(-200)
            assert supervised == sum(end - start for start, end in encoded.supervised) > 0
            assert first + before == encoded.supervised[0][0]
            assert before == images
            assert last == (encoded.ids.index(-200) if images else 0)
        assert texts.tolist()[-1] == (-1, 0, 0, 0, 0, 0)
        assert "row 'bad' has no `conversations`" in reader.problem(len(texts) - 1)
        assert reader.problem(0) == ""

    def test_nothing_is_tokenised_twice(self, reader: RowReader, monkeypatch: pytest.MonkeyPatch) -> None:
        first = reader.survey().tolist()
        monkeypatch.setattr(RowReader, "_text", None)
        assert reader.survey().tolist() == first

    def test_another_template_or_tokenizer(self, reader: RowReader, spec: dict[str, Any]) -> None:
        first = reader.survey().tolist()
        chatml, reader.conversation = (
            reader.conversation,
            parts.conversation(load_spec({**spec, "model": {**spec["model"], "conversation": "vicuna_v1"}}).model).bind(
                reader.tokenizer
            ),
        )
        assert reader.survey().tolist() != first
        reader.conversation = chatml
        assert reader.survey().tolist() == first
        prints = {reader.tokenizer.fingerprint()}
        for name, other in (("parse_special_text", True), ("pad_id", 1), ("backend", "{}")):
            monkeypatch = pytest.MonkeyPatch()
            with monkeypatch.context() as patch:
                patch.setattr(reader.tokenizer, name, other)
                prints.add(reader.tokenizer.fingerprint())
        assert len(prints) == 4

    def test_lengths_by_words(self, reader: RowReader, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(DataError, match=r"rows\.jsonl:15: row has no words"):
            reader.lengths()
        reader.mixture.drop([14])
        first = reader.lengths()
        assert first[:2] == [6, 6]
        assert first[-1] < 0
        monkeypatch.setattr("lensmith.data.reader.modality_length", None)
        assert reader.lengths() == first

    def test_many_rows_are_shared_by_processes(self) -> None:
        def read(row: int) -> tuple[int, int, int, int, int, int]:
            return (row, row % 3, os.getpid(), 0, 0, 0)

        texts = survey(range(5000), read)
        assert texts["ids"].tolist() == list(range(5000))
        assert set(texts["supervised"].tolist()) != {os.getpid()}
