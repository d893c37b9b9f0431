"""Where weights and configs are: a local folder, a single file, or a hub id. No torch here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, WithJsonSchema

from lensmith.io import hub
from lensmith.io.json import read_object
from lensmith.io.sizes import check_entries, check_sizes

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+\Z")


class LocatedStr(str):
    """A string from a file that remembers the folder of that file, so that relative paths mean what they say."""

    base: Path

    def __new__(cls, value: str, base: Path) -> LocatedStr:
        """Attach `base` to `value`."""
        text = super().__new__(cls, value)
        text.base = base
        return text

    def __getnewargs__(self) -> tuple[str, Path]:  # type: ignore[override]
        return str(self), self.base


def _absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return str(Path(os.path.expanduser(value)).absolute())  # noqa: PTH111
    if isinstance(value, str):
        if not value:
            raise ValueError("is empty; give a path")
        base = getattr(value, "base", Path.cwd())
        return os.path.normpath(base / os.path.expanduser(value))  # noqa: PTH111
    raise ValueError("should be a path, as text")


def _checkpoint(value: Any) -> Any:
    path = Path(_absolute(value))
    text = str(value)
    if os.path.exists(path) or not is_hub_id(text):  # noqa: PTH110 - Path's own raises where a name is too long
        return str(path)
    return text


def is_hub_id(text: str) -> bool:
    """Whether a checkpoint that is not on disk has the form `owner/name` of a hub id."""
    return bool(_HUB_ID.match(text)) and not text.startswith((".", "~", "/"))


SpecPath = Annotated[Path, BeforeValidator(_absolute), WithJsonSchema({"type": "string", "format": "path"})]
"""A path in a spec: relative to the spec file that says it, or to the working folder for overrides."""

Checkpoint = Annotated[str, BeforeValidator(_checkpoint), AfterValidator(str), WithJsonSchema({"type": "string"})]
"""A local folder or file (relative to the spec file), or a hub id `owner/name`."""


def locations(spec: BaseModel) -> Iterator[tuple[str, str]]:
    """The fields of a part's spec that are a `SpecPath` or a `Checkpoint`, with what they say; not those without."""
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, (str, Path)) and any(map(_is_location, (field.annotation, *field.metadata))):
            yield name, str(value)


def _is_location(annotation: Any) -> bool:
    """Whether a type, or what it is annotated with, is that of a place."""
    if isinstance(annotation, BeforeValidator):
        return annotation.func in (_absolute, _checkpoint)
    inside = (*get_args(annotation), *getattr(annotation, "__metadata__", ()))
    return any(map(_is_location, inside))


def import_hint(folder: Path) -> str:
    """What to do with a folder that is no artifact and holds weights; empty for any other."""
    # Not Path.is_dir(), which raises where a name is too long.
    there = os.listdir(folder) if os.path.isdir(folder) else []  # noqa: PTH112, PTH208
    if any(name.endswith((".safetensors", ".bin")) for name in there):
        return f"; it holds weights: if another project wrote it, `lensmith import {folder}` makes an artifact of it"
    return ""


def read_config(checkpoint: str, filename: str = "config.json") -> dict[str, Any]:
    """The JSON config of a checkpoint.

    Args:
        checkpoint: a folder, the JSON file itself, or a hub id (the local cache is asked first).
        filename: which file of a folder.

    Raises:
        FileNotFoundError: naming the file and what may be given instead.
        ValueError: a file that is not a JSON object, with its line.
    """
    path = Path(checkpoint)
    if path.is_dir():
        path = path / filename
    if not path.is_file():
        if not is_hub_id(checkpoint):
            raise FileNotFoundError(
                f"{path} does not exist; give a local folder that holds {filename}, or a hub id 'owner/name'"
            )
        path = hub_file(checkpoint, filename)
    config = read_object(path, nonfinite=True)  # some models' configs hold Infinity
    if filename == "config.json":
        check_sizes(config, str(path))
    return config


def check_indexes(folder: Path) -> None:
    """Refuse a folder of weights whose index names files outside it; transformers would read them.

    Raises:
        ValueError: naming index and entry.
    """
    for index in sorted(folder.glob("*.index.json")) if folder.is_dir() else ():
        shards = read_object(index, nonfinite=True).get("weight_map")
        if not isinstance(shards, dict):
            raise ValueError(f"{index}: has no weight_map, which names the file of each tensor")
        missing = [
            name for name in sorted(set(check_entries(shards.values(), str(index)))) if not (folder / name).is_file()
        ]
        if missing:
            raise ValueError(f"{index}: names {missing[0]}, which is not there; get the whole checkpoint")


def cached_folder(repository: str) -> Path | None:
    """The folder of a hub repository's files that are on this machine; None where there are none. No network."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    if not (cache / f"models--{repository.replace('/', '--')}").is_dir():
        return None  # without the import, which takes a short command's time
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(repository, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def hub_file(repository: str, filename: str) -> Path:
    """A file of a hub repository, from the cache or downloaded.

    Raises:
        HubError: it is neither cached nor to be had; a FileNotFoundError.
    """
    import huggingface_hub

    hub.require(repository, filename)
    try:
        return Path(huggingface_hub.hf_hub_download(repository, filename))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise hub.absent(repository, filename, hub.unreachable() or reason) from error
