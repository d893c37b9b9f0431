"""Files of rows: what can be read, where a mistake is, and which rows are shown when."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lensmith.data.sources import Mixture, RowFile
from lensmith.errors import DataError
from lensmith.spec.run import DataSpec


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def numbered(path: Path, count: int) -> Path:
    return written(path, "".join(json.dumps({"id": f"{path.stem}-{n}"}) + "\n" for n in range(count)))


def mixture(*sources: Any) -> Mixture:
    return Mixture(DataSpec.model_validate({"sources": list(sources)}))


def ids(mixed: Mixture, indices: list[int]) -> list[str]:
    found = []
    for index in indices:
        source, number = mixed.locate(index)
        found.append(source.rows[number]["id"])
    return found


class TestRowFile:
    def test_a_json_list(self, tmp_path: Path) -> None:
        rows = RowFile(written(tmp_path / "a.json", '\n [{"id": 1},\n {"id": 2}]\n'))
        assert len(rows) == 2
        assert [row["id"] for row in rows] == [1, 2]
        assert rows[-1] == {"id": 2}
        assert rows[0:2] == [{"id": 1}, {"id": 2}]
        assert rows.place(1) == f"{tmp_path / 'a.json'}[1]"

    def test_json_lines(self, tmp_path: Path) -> None:
        rows = RowFile(written(tmp_path / "a.jsonl", '{"id": 1}\n{"id": 2}'))
        assert [row["id"] for row in rows] == [1, 2]
        assert rows.place(1) == f"{tmp_path / 'a.jsonl'}:2"
        assert rows[0:1] == [{"id": 1}]

    def test_the_extension_says_nothing(self, tmp_path: Path) -> None:
        assert len(RowFile(written(tmp_path / "a.json", '{"id": 1}\n{"id": 2}\n'))) == 2
        assert len(RowFile(written(tmp_path / "a.jsonl", '[{"id": 1}]'))) == 1

    def test_blank_lines_do_not_shift_the_numbers(self, tmp_path: Path) -> None:
        rows = RowFile(written(tmp_path / "a.jsonl", '\n{"id": 1}\n  \t\n\n{"id": 2}\n\n'))
        assert [row["id"] for row in rows] == [1, 2]
        assert [rows.place(i).rpartition(":")[2] for i in range(2)] == ["2", "5"]

    @pytest.mark.parametrize("content", ['{"id": "é"}\n{"id": "b"}\n', '\n{"id": "é"}\n{"id": "b"}\n'])
    def test_a_byte_order_mark(self, tmp_path: Path, content: str) -> None:
        rows = RowFile(written(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + content.encode()))
        assert [row["id"] for row in rows] == ["é", "b"]

    def test_a_byte_order_mark_before_a_list(self, tmp_path: Path) -> None:
        assert RowFile(written(tmp_path / "a.json", b'\xef\xbb\xbf[{"id": 1}]'))[0] == {"id": 1}

    def test_windows_line_ends(self, tmp_path: Path) -> None:
        rows = RowFile(written(tmp_path / "a.jsonl", '{"id": 1}\r\n\r\n{"id": "a\\r\\nb"}\r\n'))
        assert [row["id"] for row in rows] == [1, "a\r\nb"]
        assert rows.place(1).endswith(":3")

    def test_any_script_and_separators_inside_strings(self, tmp_path: Path) -> None:
        # U+2028 and U+0085 end lines for str.splitlines, not in JSON lines.
        texts = ["東京タワー 🗼", "a\u2028b\u0085c", "Ελληνικά", "\\u0041"]
        lines = "".join(json.dumps({"id": text}, ensure_ascii=False) + "\n" for text in texts)
        assert [row["id"] for row in RowFile(written(tmp_path / "a.jsonl", lines))] == texts

    def test_a_bad_line_is_told_when_it_is_read(self, tmp_path: Path) -> None:
        rows = RowFile(written(tmp_path / "a.jsonl", '{"id": 1}\n\n{"id": 2,}\n{"id": 3}\n'))
        assert rows[0] == {"id": 1}
        assert rows[2] == {"id": 3}
        with pytest.raises(DataError, match=r"a\.jsonl:3: not valid JSON: .* at column \d+"):
            rows[1]

    def test_a_line_that_is_cut_off(self, tmp_path: Path) -> None:
        rows = RowFile(written(tmp_path / "a.jsonl", '{"id": 1}\n{"id": "tw'))
        with pytest.raises(DataError, match=r"a\.jsonl:2: not valid JSON"):
            rows[1]

    def test_bytes_that_are_not_utf8(self, tmp_path: Path) -> None:
        rows = RowFile(written(tmp_path / "a.jsonl", b'{"id": 1}\n{"id": "\xe9"}\n'))
        with pytest.raises(DataError, match=r"a\.jsonl:2: not UTF-8 text"):
            rows[1]
        with pytest.raises(DataError, match=r"b\.json:1: not UTF-8 text"):
            RowFile(written(tmp_path / "b.json", b'[{"id": "\xe9"}]'))

    def test_a_bad_list_is_told_at_once_with_its_line(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"a\.json:3: not valid JSON"):
            RowFile(written(tmp_path / "a.json", '[{"id": 1},\n{"id": 2}\n{"id": 3}]'))

    def test_missing_and_empty_files(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="does not exist; `path` names a JSON or JSON-lines file of rows"):
            RowFile(tmp_path / "no.json")
        for content in (b"", b"\n \n", b"\xef\xbb\xbf\n"):
            with pytest.raises(DataError, match="is empty; it must hold rows"):
                RowFile(written(tmp_path / "a.json", content))

    def test_an_empty_list_has_no_rows(self, tmp_path: Path) -> None:
        assert len(RowFile(written(tmp_path / "a.json", "[]"))) == 0


class TestOpening:
    def test_pictures_are_beside_the_file_by_default(self, tmp_path: Path) -> None:
        file = numbered(tmp_path / "a.jsonl", 1)
        (tmp_path / "pictures").mkdir()
        assert mixture(str(file)).sources[0].root == tmp_path
        assert mixture({"path": file, "images": tmp_path / "pictures"}).sources[0].root == tmp_path / "pictures"

    def test_a_missing_folder_of_pictures(self, tmp_path: Path) -> None:
        file = numbered(tmp_path / "a.jsonl", 1)
        with pytest.raises(DataError, match="`images` names the folder that the rows' pictures are in"):
            mixture({"path": file, "images": tmp_path / "no"})

    def test_one_index_over_several_sources(self, tmp_path: Path) -> None:
        mixed = mixture(*(str(numbered(tmp_path / f"{name}.jsonl", count)) for name, count in [("a", 2), ("b", 3)]))
        assert len(mixed) == 5
        assert ids(mixed, list(range(5))) == ["a-0", "a-1", "b-0", "b-1", "b-2"]
        with pytest.raises(IndexError):
            mixed.locate(5)


class TestEpochs:
    def test_every_row_once_in_another_order_each_epoch(self, tmp_path: Path) -> None:
        mixed = mixture(str(numbered(tmp_path / "a.jsonl", 50)))
        first, second = mixed.epoch(1, 0), mixed.epoch(1, 1)
        assert sorted(first) == sorted(second) == list(range(50))
        assert first != second
        assert first != list(range(50))

    def test_the_seed_decides_and_nothing_else(self, tmp_path: Path) -> None:
        file = numbered(tmp_path / "a.jsonl", 50)
        assert mixture(str(file)).epoch(1, 3) == mixture(str(file)).epoch(1, 3)
        assert mixture(str(file)).epoch(1, 3) != mixture(str(file)).epoch(2, 3)

    def test_the_order_is_the_same_for_good(self, tmp_path: Path) -> None:
        # Held fast: a run that is resumed by a later version must see the same rows.
        assert mixture(str(numbered(tmp_path / "a.jsonl", 8))).epoch(42, 0) == [1, 7, 2, 3, 5, 6, 4, 0]

    @pytest.mark.parametrize(("weight", "rows"), [(2.0, 20), (1.0, 10), (0.5, 5), (1.5, 15), (0.001, 1)])
    def test_weights(self, tmp_path: Path, weight: float, rows: int) -> None:
        mixed = mixture({"path": numbered(tmp_path / "a.jsonl", 10), "weight": weight})
        order = mixed.epoch(0, 0)
        assert len(order) == mixed.epoch_size() == rows
        counts = Counter(order)
        assert max(counts.values()) - min(counts.get(i, 0) for i in range(10)) <= 1

    def test_a_weight_below_one_shows_a_fresh_share_each_epoch(self, tmp_path: Path) -> None:
        mixed = mixture({"path": numbered(tmp_path / "a.jsonl", 40), "weight": 0.5})
        shares = {frozenset(mixed.epoch(0, epoch)) for epoch in range(4)}
        assert all(len(share) == 20 for share in shares)
        assert len(shares) == 4

    def test_weights_of_one_source_leave_the_other_alone(self, tmp_path: Path) -> None:
        a, b = numbered(tmp_path / "a.jsonl", 10), numbered(tmp_path / "b.jsonl", 4)
        mixed = mixture({"path": a, "weight": 0.5}, {"path": b, "weight": 3})
        counts = Counter(name[0] for name in ids(mixed, mixed.epoch(0, 0)))
        assert counts == {"a": 5, "b": 12}

    def test_a_fraction_keeps_the_same_rows_for_good(self, tmp_path: Path) -> None:
        file = numbered(tmp_path / "a.jsonl", 100)
        kept = mixture({"path": file, "fraction": 0.1}).sources[0].kept
        assert len(kept) == 10
        assert list(kept) == sorted(kept)
        assert mixture({"path": file, "fraction": 0.1}).sources[0].kept == kept
        assert mixture({"path": file, "fraction": 0.1, "seed": 1}).sources[0].kept != kept
        mixed = mixture({"path": file, "fraction": 0.1})
        assert set(ids(mixed, mixed.epoch(5, 9))) == {f"a-{n}" for n in kept}

    def test_a_fraction_keeps_at_least_one_row(self, tmp_path: Path) -> None:
        assert len(mixture({"path": numbered(tmp_path / "a.jsonl", 3), "fraction": 0.01})) == 1

    def test_the_stream_is_epoch_after_epoch(self, tmp_path: Path) -> None:
        mixed = mixture(str(numbered(tmp_path / "a.jsonl", 4)))
        stream = mixed.stream(3)
        assert [next(stream) for _ in range(10)] == [*mixed.epoch(3, 0), *mixed.epoch(3, 1), *mixed.epoch(3, 2)[:2]]

    @pytest.mark.parametrize(
        ("epochs", "batch", "steps"), [(1, 4, 3), (1, 5, 2), (2, 5, 4), (0.5, 5, 1), (1, 100, 1), (0.01, 10, 1)]
    )
    def test_steps(self, tmp_path: Path, epochs: float, batch: int, steps: int) -> None:
        assert mixture(str(numbered(tmp_path / "a.jsonl", 10))).steps(epochs, batch) == steps


class TestDrop:
    def test_rows_are_left_out_and_the_others_renumbered(self, tmp_path: Path) -> None:
        mixed = mixture(*(str(numbered(tmp_path / f"{name}.jsonl", 3)) for name in "ab"))
        mixed.drop({1, 3, 5})
        assert ids(mixed, list(range(len(mixed)))) == ["a-0", "a-2", "b-1"]
        assert sorted(mixed.epoch(0, 0)) == [0, 1, 2]

    def test_on_top_of_a_fraction(self, tmp_path: Path) -> None:
        mixed = mixture({"path": numbered(tmp_path / "a.jsonl", 20), "fraction": 0.5})
        kept = list(mixed.sources[0].kept)
        mixed.drop([0, 9])
        assert list(mixed.sources[0].kept) == kept[1:9]

    def test_a_source_must_keep_a_row(self, tmp_path: Path) -> None:
        mixed = mixture(*(str(numbered(tmp_path / f"{name}.jsonl", 2)) for name in "ab"))
        with pytest.raises(DataError, match=r"b\.jsonl has no row that can be used"):
            mixed.drop([2, 3])
