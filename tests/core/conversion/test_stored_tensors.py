"""Tensors that stay in files: read from every kind of file, written shard by shard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensmith.conversion.foreign import locate
from lensmith.conversion.stored import Stored, main_dtype, read, read_all, weight_files, write_weights
from lensmith.errors import LensmithError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.tensor([1, 2])}


@pytest.mark.parametrize("kind", ["safetensors", "bin", "old"])
def test_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    file = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.bin")
    if kind == "safetensors":
        save_file(TENSORS, file)
    else:
        torch.save(TENSORS, file, _use_new_zipfile_serialization=kind == "bin")
    found = read(file)
    assert {n: (s.shape, s.dtype) for n, s in found.items()} == {
        n: (tuple(t.shape), t.dtype) for n, t in TENSORS.items()
    }
    assert all(torch.equal(found[name].load(), tensor) for name, tensor in TENSORS.items())
    assert main_dtype(found.values()) == torch.float32
    halved = found["a"].to(torch.bfloat16)
    assert (halved.dtype, halved.load().dtype, halved.size) == (torch.bfloat16, torch.bfloat16, 12)
    assert found["c"].to(torch.bfloat16) is found["c"]


def test_shards_and_their_index(tmp_path: Path) -> None:
    tensors = {f"t{n}": torch.full((10,), float(n)) for n in range(5)}
    write_weights(tmp_path, {n: Stored.of(t) for n, t in tensors.items()}, limit=80)
    files = weight_files(tmp_path)
    assert [file.name for file in files] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    assert all(name in load_file(tmp_path / file) for name, file in index["weight_map"].items())
    assert all(torch.equal(stored.load(), tensors[name]) for name, stored in read_all(files).items())
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in files)


def test_a_tensor_larger_than_a_shard_is_one(tmp_path: Path) -> None:
    write_weights(tmp_path, {n: Stored.of(torch.zeros(9)) for n in "ab"}, limit=8)
    assert len(weight_files(tmp_path)) == 2


def test_what_was_promised_is_what_is_written(tmp_path: Path) -> None:
    wrong = Stored((2,), torch.float32, lambda: torch.zeros(3), "there")
    with pytest.raises(LensmithError, match=r"there: a is \(3,\) of torch.float32, not \(2,\)"):
        write_weights(tmp_path, {"a": wrong})


DAMAGED = [
    ("w.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense", "its weights cannot be read"),
    ("w.bin", b"nonsense", "is not read: it is damaged or holds more than tensors"),
    ("w.bin", b"", "is not read: it is damaged"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LensmithError, match=message):
        read(tmp_path / name)


def test_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LensmithError, match="does not exist; give a local folder or file, or a hub id"):
        locate(str(tmp_path / "none"))
    with pytest.raises(LensmithError, match="where there are no revisions; leave --revision out"):
        locate(str(tmp_path), "main")
    (tmp_path / "w.txt").write_text("")
    with pytest.raises(LensmithError, match=r"is no file of weights \(.safetensors or .bin\)"):
        locate(str(tmp_path / "w.txt"))


def test_the_hub_is_asked_last_and_the_commit_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository in the cache needs no connection."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--name"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    save_file(TENSORS, folder / "model.safetensors")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = locate("owner/name")
    assert (found.path, found.revision) == (folder, commit)
    assert found.tensors.keys() == TENSORS.keys()
    with pytest.raises(LensmithError, match="'owner/other' is no folder here, is not in the hub's cache"):
        locate("owner/other")
