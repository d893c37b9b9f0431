"""What a manifest must look like, and which files an artifact may hold: everything that a stranger may have edited."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

PICKLES = {
    *(".bin", ".ckpt", ".cloudpickle", ".dill", ".h5", ".joblib", ".mar", ".model_states", ".npy", ".npz", ".p"),
    *(".pickle", ".pkl", ".pt", ".pt2", ".pth", ".ptl", ".torch"),
}
"""Ends of names, in any case, of formats that are pickles or may hold some."""
_BEGINNINGS = {b"\x93NUMPY": "a NumPy array", b"PK\x03\x04": "a zip archive, as torch.save writes", b"\x89HDF": "HDF5"}
_RESUME = "resume"


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError("should be the name of a file inside the artifact")
    return name


def _folder(name: str) -> str:
    if len(PurePosixPath(_inside(name)).parts) != 1 or name.startswith("."):
        raise ValueError("should be the name of a folder of the artifact")
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _File(_Strict):
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Provider(_Strict):
    name: str
    distribution: str
    version: str
    parts: dict[str, _Nested] = {}


class _Nested(_Provider):
    kind: str


class _Source(_Strict):
    source: str
    files: dict[str, _File]


class _Named(_Strict):
    name: str


class _Imported(_Strict):
    bases: dict[str, str] = {}


class _Manifest(_Strict):
    format: int
    model: dict[str, Any]
    tuner: _Named | None
    plugins: dict[str, _Provider]
    weights: list[Annotated[str, AfterValidator(_folder)]]
    sources: dict[str, _Source]
    stage: dict[str, Any]
    data: list[dict[str, Any]]
    step: int = Field(ge=0)
    steps: int = Field(0, ge=0)
    files: dict[Annotated[str, AfterValidator(_inside)], _File]
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    starts_from: str | None = None
    merged: dict[str, Any] | None = None
    imported: _Imported | None = None


def mistakes(data: dict[str, Any]) -> list[str]:
    """What of a manifest has another form than Lensmith writes: the entry, what it should be, what it is."""
    try:
        _Manifest.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        return [f"{'.'.join(map(str, e['loc']))}: {_told(e)}" for e in found]
    return []


def _told(detail: Any) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    shown = repr(detail["input"])
    if detail["type"] == "missing":
        return "is missing"
    return f"{message[:1].lower()}{message[1:]}; it is {shown if len(shown) <= 60 else shown[:57] + '…'}"


def foreign(folder: Path) -> Iterator[str]:
    """What no artifact holds: links that lead out of it, and files that may be pickles; each with the reason.

    A checkpoint's state, which has readers of its own, may be in torch's format.
    """
    home = folder.resolve()
    for root, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(root) / name
            shown = path.relative_to(folder)
            if path.is_symlink() and not _leads_inside(path, home):
                yield f"{shown} is a link that leads out of it"
            elif name in folders:
                continue
            elif not path.is_file():
                yield f"{shown} is no regular file"
            elif why := _may_be_pickle(path, state=shown.parts[0] == _RESUME):
                yield f"{shown} {why}"


def _leads_inside(link: Path, home: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(home)
    except (OSError, RuntimeError):  # it leads nowhere, or in a circle
        return False


def _may_be_pickle(path: Path, *, state: bool) -> str:
    if state and path.suffix == ".pt":
        return ""
    if path.suffix.lower() in PICKLES:
        return f"may be pickles ({path.suffix}), which run code when they are read"
    with path.open("rb") as file:
        beginning = file.read(6)
    if len(beginning) > 1 and beginning[0] == 0x80 and 2 <= beginning[1] <= 5:
        return "begins as a pickle, which runs code when it is read"
    for mark, what in _BEGINNINGS.items():
        if beginning.startswith(mark):
            return f"is {what}, which may hold pickles"
    return ""
