"""Features on disk: whole or not there, whoever writes and whenever it is killed."""

from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensmith.features import store
from lensmith.features.filling import open_folder
from lensmith.features.keys import Encoding
from lensmith.features.store import KnownFile, Store, Writer
from lensmith.features.table import Table, key_array

TOKENS, WIDTH = 3, 5


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def features(number: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Those of picture `number`, of one to three views."""
    views = number % 3 + 1
    return torch.randn(views, TOKENS, WIDTH, generator=torch.Generator().manual_seed(number)).to(dtype)


def open_store(folder: Path, dtype: torch.dtype = torch.float32) -> Store:
    return Store(folder, TOKENS, WIDTH, dtype)


def fill(folder: Path, numbers: range) -> None:
    with Writer(open_store(folder), shard_bytes=400) as writer:
        for number in numbers:
            writer.add(key(number), features(number))


def held(found: Store, numbers: range) -> int:
    """How many are there; what is there must be right."""
    count = 0
    for number in numbers:
        place = found.find(key(number))
        if place is not None:
            assert torch.equal(found.read(place), features(number))
            count += 1
    return count


class TestTable:
    def test_finds_what_it_was_given(self) -> None:
        draw = np.random.default_rng(0)
        keys = [draw.bytes(16) for _ in range(500)]
        table = Table(key_array(keys), np.arange(1000).reshape(500, 2))
        assert [table.find(k) for k in keys] == [(2 * i, 2 * i + 1) for i in range(500)]
        assert all(table.find(draw.bytes(16)) is None for _ in range(100))

    def test_keys_with_equal_halves_and_trailing_zeros_stay_apart(self) -> None:
        keys = [b"a" * 8 + bytes(8), b"a" * 8 + b"b" * 8, bytes(8) + b"a" * 8, b"a" * 7 + bytes(9)]
        table = Table(key_array(keys), np.arange(4).reshape(4, 1))
        assert [table.find(k) for k in keys] == [(0,), (1,), (2,), (3,)]

    def test_the_first_of_equal_keys_counts(self) -> None:
        assert Table(key_array([key(1), key(1)]), np.array([[7], [8]])).find(key(1)) == (7,)


class TestStore:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_gives_back_what_was_written_bit_for_bit(self, tmp_path: Path, dtype: torch.dtype) -> None:
        with Writer(open_store(tmp_path, dtype), shard_bytes=200) as writer:
            for number in range(20):
                writer.add(key(number), features(number, dtype))
        found = open_store(tmp_path, dtype)
        assert len(list(tmp_path.glob("shard-*"))) > 2
        for number in range(20):
            place = found.find(key(number))
            assert place is not None
            assert found.read(place).dtype == dtype
            assert torch.equal(found.read(place), features(number, dtype))
        assert found.find(key(20)) is None

    def test_what_others_wrote_is_seen_after_refresh(self, tmp_path: Path) -> None:
        found = open_store(tmp_path)
        with Writer(open_store(tmp_path)) as writer:
            writer.add(key(1), features(1))
            writer.add_file(key(2), KnownFile(key(3), (20, 30)))
        assert found.find(key(1)) is None
        found.refresh()
        assert held(found, range(1, 2)) == 1
        assert found.file(key(2)) == KnownFile(key(3), (20, 30))
        assert found.file(key(1)) is None

    def test_features_that_are_added_are_copied(self, tmp_path: Path) -> None:
        batch = features(2)
        with Writer(open_store(tmp_path)) as writer:
            writer.add(key(0), batch[:1])
            batch.zero_()
        place = open_store(tmp_path).find(key(0))
        assert place is not None
        assert torch.equal(open_store(tmp_path).read(place), features(2)[:1])

    @pytest.mark.parametrize("damage", ["zeros", "a constant", "one bit", "the last bit", "another's place"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_A12_a_damaged_record_is_passed_over_and_told(
        self, tmp_path: Path, damage: str, dtype: torch.dtype
    ) -> None:
        with Writer(open_store(tmp_path, dtype)) as writer:
            for number in range(3):
                writer.add(key(number), torch.full((1, TOKENS, WIDTH), number + 1.0, dtype=dtype))
        found = open_store(tmp_path, dtype)
        places = [found.find(key(number)) for number in range(3)]
        assert all(places)
        [shard] = tmp_path.glob("shard-*")
        content = bytearray(shard.read_bytes())
        size = TOKENS * WIDTH * dtype.itemsize
        one = torch.full((TOKENS * WIDTH,), 2.0, dtype=dtype).view(torch.uint8).numpy().tobytes()
        start = content.index(one)
        if damage == "zeros":
            content[start : start + size] = bytes(size)
        elif damage == "a constant":
            content[start : start + size] = b"\x3f" * size
        elif damage == "one bit":
            content[start] ^= 1
        elif damage == "the last bit":
            content[start + size - 1] ^= 1
        else:
            content[start : start + size] = content[start - size : start]
        shard.write_bytes(content)
        found = open_store(tmp_path, dtype)
        assert places[1] is not None
        with pytest.warns(UserWarning, match=f"{shard.name} holds a damaged record; its image is encoded again"):
            assert found.read(places[1]) is None
        for number in (0, 2):
            place = found.find(key(number))
            assert place is not None
            read = found.read(place)
            assert read is not None
            assert torch.equal(read, torch.full((1, TOKENS, WIDTH), number + 1.0, dtype=dtype))
        assert found.find(key(1)) is None
        with Writer(found) as writer:
            assert key(1) not in writer
            writer.add(key(1), torch.full((1, TOKENS, WIDTH), 9.0, dtype=dtype))
        found.refresh()
        place = found.find(key(1))
        assert place is not None
        again = found.read(place)
        assert again is not None
        assert float(again.max()) == 9.0

    @pytest.mark.parametrize("damage", ["cut", "cut in the header", "empty", "text", "other width", "other type"])
    def test_a_damaged_shard_is_left_aside_and_told(self, tmp_path: Path, damage: str) -> None:
        fill(tmp_path, range(1))
        fill(tmp_path, range(1, 2))
        shard = sorted(tmp_path.glob("shard-*"))[0]
        content = shard.read_bytes()
        width, dtype = (WIDTH + 1, torch.float32) if damage == "other width" else (WIDTH, torch.bfloat16)
        if damage.startswith("other"):
            shard.unlink()
            with Writer(Store(tmp_path, TOKENS, width, dtype)) as writer:
                writer.add(key(0), torch.zeros(1, TOKENS, width))
        else:
            shard.write_bytes(
                {"cut": content[:-1], "cut in the header": content[:20], "empty": b"", "text": b"{" * 200}[damage]
            )
        found = open_store(tmp_path)
        assert held(found, range(2)) == 1
        assert len(found.damaged) == 1

    def test_processes_write_at_once(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("fork")
        ranges = [range(60), range(40, 100), range(60)]  # some of them the same pictures
        processes = [context.Process(target=fill, args=(tmp_path, numbers)) for numbers in ranges]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert held(open_store(tmp_path), range(100)) == 100
        assert not list(tmp_path.glob(".writing-*"))


def open_at_once(root: Path, barrier: Any, failures: Any) -> None:
    for number in range(15):
        encoding = Encoding({"of": number}, torch.ones(1, TOKENS, WIDTH))
        barrier.wait(60)
        try:
            open_folder(root, encoding)
        except OSError as error:
            failures.put(str(error))


def test_runs_may_open_a_new_folder_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(3), context.SimpleQueue()
    runs = [context.Process(target=open_at_once, args=(tmp_path, barrier, failures)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert failures.empty(), failures.get()
    assert len(list(tmp_path.glob("*/probe.safetensors"))) == len(list(tmp_path.glob("*/about.json"))) == 15
    assert not list(tmp_path.glob("*/.writing-*"))


@pytest.mark.parametrize("moment", [0.0, 0.003, 0.01, 0.03, 0.1])
def test_a_kill_leaves_no_half_and_no_wrong_feature(tmp_path: Path, moment: float) -> None:
    process = multiprocessing.get_context("fork").Process(target=fill, args=(tmp_path, range(100_000)))
    process.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.001)
    time.sleep(moment)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = open_store(tmp_path)
    assert not found.damaged
    assert held(found, range(100_000)) == len(found)
    left = list(tmp_path.glob(".writing-*"))
    store.sweep(tmp_path)
    assert list(tmp_path.glob(".writing-*")) == left  # somebody may be writing it
    store.sweep(tmp_path, older=-1.0)
    assert not list(tmp_path.glob(".writing-*"))
    assert len(left) <= 1
    fill(tmp_path, range(20))  # and it can be gone on with
    assert held(open_store(tmp_path), range(20)) == 20
