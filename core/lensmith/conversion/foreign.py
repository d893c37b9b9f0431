"""A checkpoint that somebody else wrote: a folder, a single file, or a repository of the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.checkpoints import is_hub_id
from lensmith.errors import LensmithError
from lensmith.io import hub
from lensmith.io.json import read_object
from lensmith.io.sizes import check_sizes

if TYPE_CHECKING:
    from lensmith.conversion.stored import Stored

_WEIGHTS = (".safetensors", ".bin")
_NEEDLESS = ["*.gguf", "*.msgpack", "*.h5", "*.onnx", "*.pt", "*.pth", "*.ot", "*.tflite"]


@dataclass(frozen=True)
class Foreign:
    """What is there to be read.

    Args:
        path: the folder, or a single file of weights.
        name: as the user gave it.
        revision: the commit of a repository of the hub; empty for a local path.
    """

    path: Path
    name: str
    revision: str = ""

    @property
    def folder(self) -> Path:
        """The folder, of a single file the one that holds it."""
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its `config.json`, empty where there is none."""
        config = self.json("config.json")
        try:
            check_sizes(config, f"{self.name}/config.json")
        except ValueError as error:
            raise LensmithError(str(error)) from error
        return config

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of a folder, empty where there is none.

        Raises:
            JsonError: it is no JSON object.
        """
        file = self.path / name
        if not file.is_file():
            return {}
        return read_object(file, nonfinite=True)

    def has(self, name: str) -> bool:
        """Whether a folder holds a file."""
        return (self.path / name).is_file()

    def read(self, name: str) -> dict[str, Stored]:
        """The tensors of one file of a folder, by name; none where it is not there."""
        from lensmith.conversion.stored import read

        return read(self.path / name) if self.has(name) else {}

    @cached_property
    def tensors(self) -> Mapping[str, Stored]:
        """The tensors of the whole model (or of the single file), by name; none where there is no such file.

        Raises:
            LensmithError: files that cannot be read.
        """
        from lensmith.conversion.stored import read, read_all, weight_files

        return read(self.path) if self.path.is_file() else read_all(weight_files(self.path))

    def files(self) -> list[str]:
        """Names of what a folder holds, for messages."""
        return sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else [self.path.name]


def locate(source: str, revision: str | None = None) -> Foreign:
    """Find a checkpoint: on this machine, in the hub's cache, or on the hub, in this order.

    Args:
        source: a folder, a file, or a hub id `owner/name`.
        revision: branch, tag or commit of a hub id.

    Raises:
        LensmithError: it is nowhere, or a revision is given for a local path.
    """
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - `~` in a hub id stays
    if path.exists():
        if revision is not None:
            raise LensmithError(f"{source} is on this machine, where there are no revisions; leave --revision out")
        if path.is_file() and path.suffix not in _WEIGHTS:
            raise LensmithError(f"{path} is no file of weights ({' or '.join(_WEIGHTS)}); give one, or a folder")
        return Foreign(path.absolute(), source)
    if not is_hub_id(source):
        raise LensmithError(f"{path} does not exist; give a local folder or file, or a hub id 'owner/name'")
    folder = snapshot(source, revision)
    return Foreign(folder, source, folder.name)


def snapshot(repository: str, revision: str | None = None) -> Path:
    """The folder of a hub repository at one commit, which is the folder's name: cached, else downloaded.

    Raises:
        HubError: it is neither cached nor to be had.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    options: dict[str, Any] = {"revision": revision, "ignore_patterns": _NEEDLESS}
    try:
        cached = Path(huggingface_hub.snapshot_download(repository, local_files_only=True, **options))
        if any(path.suffix in _WEIGHTS for path in cached.iterdir()):  # else a config that somebody looked at
            return cached
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        pass
    hub.require(repository)
    try:
        files = huggingface_hub.HfApi().list_repo_files(repository, revision=revision)
        if any(file.endswith(".safetensors") for file in files):
            options["ignore_patterns"] = [*_NEEDLESS, "pytorch_model*.bin"]
        return Path(huggingface_hub.snapshot_download(repository, **options))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise hub.absent(repository, f"at {revision}" if revision else "", hub.unreachable() or reason) from error
