"""Some tensors of a checkpoint that may be large and in several files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lensmith import hub_file, is_hub_id, read_config
from lensmith.io.sizes import check_entries

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def read_tensors(checkpoint: str, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The tensors whose names are `wanted`; only the files that hold them are opened (or downloaded).

    Args:
        checkpoint: a folder, or a hub id.
        wanted: told a tensor's name.

    Raises:
        FileNotFoundError: there is no such folder, or no safetensors in it.
        ValueError: a file cannot be read.
    """
    found: dict[str, Tensor] = {}
    for name in _files(checkpoint, wanted):
        path = _file(checkpoint, name)
        try:
            with safe_open(path, framework="pt") as file:
                found |= {tensor: file.get_tensor(tensor) for tensor in file.keys() if wanted(tensor)}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: its weights cannot be read: {error}") from error
    return found


def _files(checkpoint: str, wanted: Callable[[str], bool]) -> list[str]:
    """Names of the files with wanted tensors, by the index where there is one."""
    try:
        index = read_config(checkpoint, _INDEX)
    except FileNotFoundError:
        return [_WHOLE]
    shards = index.get("weight_map")
    if not isinstance(shards, dict):
        raise ValueError(f"{checkpoint}: its {_INDEX} has no weight_map")
    return sorted(
        set(check_entries((shard for name, shard in shards.items() if wanted(name)), f"{checkpoint}/{_INDEX}"))
    )


def _file(checkpoint: str, name: str) -> Path:
    folder = Path(checkpoint)
    if not folder.exists() and is_hub_id(checkpoint):
        return hub_file(checkpoint, name)
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder / name} does not exist; give a folder with safetensors weights (other formats are converted by"
            " transformers' from_pretrained and save_pretrained), or a hub id"
        )
    return folder / name
