"""Artifacts that somebody edited, every hash redone: one line that names what does not belong, never a traceback."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lensmith
from lensmith import files
from lensmith.errors import ArtifactError, LensmithError

VALUES: list[Any] = [None, True, -1, 10**30, "", "x", [], ["x"], [[1]], {}, {"x": 1}, 1.5]
NAMES = ["../outside", "/etc/passwd", "a\\b"]


@pytest.fixture(scope="module")
def artifact(model_spec: dict[str, Any], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With adapters, and a vision encoder of its own."""
    common = {"data": {"sources": [str(rows)]}, "max_steps": 1, "precision": "fp32", "batch": {"size": 4}}
    tuners = {
        "align": {"name": "full", "language_model": False, "vision_encoder": True},
        "tune": {"name": "lora", "rank": 2},
    }
    stages = {name: {**common, "tuner": tuner} for name, tuner in tuners.items()}
    return lensmith.train({"model": model_spec, "stages": stages}, output=tmp_path_factory.mktemp("run"))[-1]


def redo(folder: Path) -> None:
    """Make every hash right again."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    manifest["files"] = files.inventory(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def told(folder: Path) -> str:
    """What loading says; empty where it loads."""
    try:
        with torch.no_grad():
            lensmith.load(folder, dtype=torch.float32)
    except LensmithError as error:
        return str(error)
    return ""


def told_of_manifest(folder: Path) -> str:
    """The same of the manifest and the specs in it alone."""
    try:
        lensmith.loading.model_spec(lensmith.artifacts.Manifest.read(folder))
    except LensmithError as error:
        return str(error)
    return ""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if new is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return changed


def test_A16_every_entry_of_a_manifest(artifact: Path) -> None:
    """Removed, or of another kind: read as it was or refused, and refused by what has to be there."""
    original = json.loads((artifact / "manifest.json").read_text())
    ignored = {
        "files",  # held against what is there when it is read
        "lensmith",
        "plugins",
        "starts_from",
        "order_seed",
        "steps",
        "step",
        "stage",
        "data",
        "precision",
        "sources",
    }
    try:
        for path in leaves(original):
            if path[0] in ("stage", "data", "files") and len(path) > 2 + (path[0] == "data"):
                continue
            for new in (KeyError, *VALUES[:: 1 if len(path) == 1 else 4]):
                edited = put(original, path, new)
                if edited == original:
                    continue
                (artifact / "manifest.json").write_text(json.dumps(edited))
                message = told_of_manifest(artifact)
                assert "\n" not in message, (path, new)
                assert not message or str(artifact) in message, (path, new)
                assert message or path[0] in ignored or len(path) > 1, (path, new)
    finally:
        (artifact / "manifest.json").write_text(json.dumps(original))


@pytest.mark.parametrize("name", NAMES)
def test_A16_names_stay_inside(artifact: Path, name: str) -> None:
    original = json.loads((artifact / "manifest.json").read_text())
    try:
        for edited in (
            {**original, "files": {**original["files"], name: {"size": 0, "sha256": "0" * 64}}},
            {**original, "weights": [*original["weights"], name]},
        ):
            (artifact / "manifest.json").write_text(json.dumps(edited))
            assert "inside the artifact" in told(artifact) or "name of a folder" in told(artifact)
    finally:
        (artifact / "manifest.json").write_text(json.dumps(original))


def first(tensors: dict[str, torch.Tensor]) -> str:
    return sorted(tensors)[0]


def without(t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: v for n, v in t.items() if n != first(t)}


TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "one dropped": without,
    "all dropped": lambda t: {},
    "one renamed": lambda t: {**without(t), "other": t[first(t)]},
    "one more": lambda t: {**t, "spare": torch.zeros(3)},
    "reshaped": lambda t: {**t, first(t): t[first(t)].reshape(-1)},
    "transposed": lambda t: {
        n: v.t().contiguous() if v.ndim == 2 and v.shape[0] != v.shape[1] else v for n, v in t.items()
    },
    "a scalar": lambda t: {**t, first(t): torch.tensor(1.0)},
    "empty": lambda t: {**t, first(t): torch.zeros(0)},
    "whole numbers": lambda t: {n: v.to(torch.int64) for n, v in t.items()},
    "truth values": lambda t: {n: v > 0 for n, v in t.items()},
    "not finite": lambda t: {n: torch.full_like(v, float("nan")) for n, v in t.items()},
}
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "cut off": lambda b: b[: len(b) // 2],
    "a byte": lambda b: b"\0",
    "text": lambda b: b"hello",
    "longer": lambda b: b + b"\0" * 8,
    "a huge header": lambda b: b"\xff" * 8 + b[8:],
    "no header": lambda b: (2).to_bytes(8, "little") + b"{}",
}
JSONS: dict[str, Callable[[Any], Any]] = {
    "a list": lambda j: [j],
    "null": lambda j: None,
    "a number": lambda j: 3,
    "empty": lambda j: {},
    "texts": lambda j: dict.fromkeys(j, "x"),
    "lists": lambda j: {key: [] for key in j},
    "nulls": lambda j: dict.fromkeys(j),
    "negative": lambda j: {
        k: -v if isinstance(v, (int, float)) and not isinstance(v, bool) else v for k, v in j.items()
    },
}


@pytest.fixture
def edited(artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact, tmp_path / "edited"))


@pytest.mark.parametrize("kind", TENSORS)
def test_A16_tensors(edited: Path, kind: str) -> None:
    for file in sorted(edited.rglob("*.safetensors")):
        kept = file.read_bytes()
        tensors = TENSORS[kind](load_file(file))
        save_file(tensors, file, metadata={"format": "pt"})
        if file.read_bytes() == kept:
            continue
        redo(edited)
        message = told(edited)
        if kind == "one more" and file.parent.name == "vision_encoder":
            file.write_bytes(kept)
            continue  # transformers passes it over, and nothing else could use it
        assert message, (file, "was read as if nothing had happened")
        assert len(message.splitlines()) <= 4, message  # a line a problem
        where = file.parent.name if file.parent != edited else file.stem
        assert where in message or file.name in message, message
        file.write_bytes(kept)
    redo(edited)
    assert told(edited) == ""


@pytest.mark.parametrize("kind", BYTES)
def test_A16_bytes(edited: Path, kind: str) -> None:
    for file in sorted(edited.rglob("*.*")):
        if not file.is_file() or file.name == "manifest.json" or file.suffix not in (".safetensors", ".json"):
            continue
        kept = file.read_bytes()
        file.write_bytes(BYTES[kind](kept))
        redo(edited)
        message = told(edited)
        if file.suffix == ".safetensors":
            assert message, file
        assert len(message.splitlines()) <= 4, message  # a line a problem
        file.write_bytes(kept)


@pytest.mark.parametrize("kind", JSONS)
def test_A16_configs(edited: Path, kind: str) -> None:
    for file in sorted(edited.rglob("*.json")):
        if file.name == "manifest.json":
            continue
        kept = file.read_text()
        try:
            file.write_text(json.dumps(JSONS[kind](json.loads(kept))))
        except AttributeError:
            continue
        redo(edited)
        assert told(edited).count("\n") <= 1
        file.write_text(kept)


def test_A16_a_file_that_the_manifest_does_not_name(edited: Path) -> None:
    save_file({"vision_encoder.x": torch.zeros(1)}, edited / "buffers.safetensors")
    assert "buffers.safetensors is not in its manifest" in told(edited)
    redo(edited)
    assert "unexpected 1: vision_encoder.x" in told(edited)


@pytest.mark.parametrize(
    "name", ["w.dill", "w.npy", "W.NPZ", "w.PKL", "w.Bin", "adapter/w.PT", "w.pth.Pickle", "tokenizer/w.JobLib", "w.h5"]
)
def test_A22_suffixes_of_pickles_in_any_case(edited: Path, name: str) -> None:
    (edited / name).write_bytes(b"x")
    redo(edited)
    assert f"{name} may be pickles" in told(edited)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\x80\x04K\x01.", "begins as a pickle"), (b"\x93NUMPY\x01\x00", "a NumPy array"), (b"PK\x03\x04xx", "a zip")],
)
def test_A22_what_a_file_is_and_not_what_it_is_called(edited: Path, content: bytes, words: str) -> None:
    (edited / "notes.txt").write_bytes(content)
    redo(edited)
    assert words in told(edited)


@pytest.mark.parametrize("what", ["file", "folder", "nowhere", "circle", "relative"])
def test_A22_links_out_of_an_artifact(edited: Path, tmp_path: Path, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(edited / "connector.safetensors", outside)
    link = edited / "connector.safetensors"
    link.unlink()
    target = {
        "file": outside / "connector.safetensors",
        "folder": outside,
        "nowhere": tmp_path / "gone",
        "circle": link,
        "relative": Path("../outside/connector.safetensors"),
    }[what]
    link.symlink_to(target)
    assert "connector.safetensors is a link that leads out of it" in told(edited)


def test_A22_a_link_inside_is_followed(edited: Path) -> None:
    (edited / "connector.safetensors").rename(edited / "kept.safetensors")
    (edited / "connector.safetensors").symlink_to("kept.safetensors")
    redo(edited)
    assert told(edited) == ""


def test_A22_merging_and_exporting_refuse_it_too(edited: Path, tmp_path: Path) -> None:
    (edited / "w.dill").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="may be pickles"):
        lensmith.merge(edited, tmp_path / "merged")
