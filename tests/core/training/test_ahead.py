"""Rows prepared by other processes, on machines with few open files and little shared memory."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lensmith.errors import TrainingError
from lensmith.training import ahead as module
from lensmith.training.ahead import EACH, ahead

MB = 1 << 20


@dataclass(frozen=True)
class Item:
    """What a step may hold: tensors of several types, some of them in lists, and what is no tensor."""

    number: int
    pixels: Tensor
    more: list[Tensor]
    nothing: Tensor | None = None


class Rows(Dataset[Item]):
    """Items of so many tensors."""

    def __init__(self, count: int, tensors: int = 2, then: Callable[[int], None] = lambda place: None) -> None:
        self.count, self.tensors, self.then = count, tensors, then

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Item:
        self.then(place)
        generator = torch.Generator().manual_seed(place)
        more = [torch.randn(3, 2, generator=generator).to(torch.bfloat16) for _ in range(self.tensors)]
        return Item(place, torch.randn(2, 0 if place == 1 else 5, generator=generator), [*more, torch.tensor(place)])


def same(one: Item, other: Item) -> bool:
    pairs = zip([one.pixels, *one.more], [other.pixels, *other.more], strict=True)
    return one.number == other.number and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def few_files() -> Iterator[Callable[[int], None]]:
    """Lower how many files this process and its workers may have open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda count: resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("free", [0, 64 * MB])
def test_items_are_what_they_are_in_this_process(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_free_memory", lambda: free)
    rows = Rows(7)
    found = list(ahead(rows, range(2, 7), 2))
    assert [item.number for item in found] == [2, 3, 4, 5, 6]
    assert all(same(item, rows[item.number]) for item in found)
    found[0].pixels.add_(1)  # memory of our own, not of a pipe


def test_many_tensors_and_few_open_files(few_files: Callable[[int], None]) -> None:
    """As with hundreds of micro-batches a step: items that are kept would have more files open than there may be."""
    opened = len(list(Path("/proc/self/fd").iterdir()))
    few_files(opened + 100)
    kept = list(ahead(Rows(20, tensors=40), range(20), 2))
    assert [item.number for item in kept] == list(range(20))
    assert len(list(Path("/proc/self/fd").iterdir())) < opened + 60


@pytest.mark.parametrize(
    ("size", "ranks", "free", "shares"),
    [
        (MB, 1, 64 * MB, False),  # a container's default; eight of them, eight times as large, do not fit
        (MB // 2, 1, 64 * MB, True),
        (MB // 2, 2, 64 * MB, False),
        (100 * MB, 8, 500_000 * MB, True),
        (1, 1, 0, False),
    ],
)
def test_shared_memory_is_used_where_there_is_plenty(
    size: int, ranks: int, free: int, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_free_memory", lambda: free)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    item = Item(0, torch.empty(size, dtype=torch.uint8, device="meta"), [])
    assert module._has_room(item, 4 * EACH) is shares


def test_what_is_under_way_is_bounded(tmp_path: Path) -> None:
    """Workers stop where they are ahead enough, however long the first item is in use."""
    items = ahead(Rows(60, then=lambda place: (tmp_path / str(place)).touch()), range(60), 2)
    next(items)
    import time

    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 2 + 2 * EACH
    items.close()  # type: ignore[attr-defined]


def test_a_worker_that_dies_is_told_with_what_to_set() -> None:
    home = os.getpid()

    def dies(place: int) -> None:
        if place == 3 and os.getpid() != home:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"a process that prepares rows ended.* Set `data\.workers` lower \(2 here"):
        list(ahead(Rows(9, then=dies), range(9), 2))


def test_a_run_with_workers_is_the_run_without(
    lab: Any, model_spec: dict[str, Any], rows: Path, tmp_path: Path
) -> None:
    """Several micro-batches a step, prepared one by one by processes: the same losses."""
    stage = {"tuner": "frozen", "lr": 1e-3, "batch": {"size": 4, "micro": 1}, "max_steps": 3, "precision": "fp32"}
    losses = []
    for workers in (0, 2):
        data = {"sources": [str(rows)], "workers": workers}
        run = lab.train({"model": model_spec, "stages": {"one": {**stage, "data": data}}}, tmp_path / str(workers))
        losses.append(run.losses("one"))
    assert losses[0] == losses[1]
