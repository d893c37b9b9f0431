"""What a picture's features depend on, as hashes: the encoder with its transform, the file, the cut.

A cache folder holds the features of one encoder: its weights (of the blocks that are built), its structure, its
spec, its type, the picture policy, the splitter and the pixels that transform and splitter make of probe pictures. A
change of any of them is another folder. Where files are is not part of it, so a checkpoint may move.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from lensmith.errors import TrainingError
from lensmith.features.refusals import drawn_views
from lensmith.features.table import KEY_BYTES
from lensmith.interfaces.shapes import Size, TileLayout

if TYPE_CHECKING:
    from lensmith.model import MultimodalModel

FORMAT = 2
_PROBES = ((96, 128), (301, 187), (480, 640))
"""(height, width) of the pictures that show what the transform does; upright and lying, shrunk and enlarged."""


@dataclass(frozen=True)
class Encoding:
    """One way to turn pictures into features.

    Args:
        about: everything that it depends on; plain data.
        probe: features (V, N, W) of a probe picture, on the CPU. They tell apart what `about` cannot: a library that
            computes otherwise.
    """

    about: dict[str, Any]
    probe: torch.Tensor

    @property
    def digest(self) -> str:
        """Name of its folder."""
        written = json.dumps(self.about, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(written.encode(), digest_size=KEY_BYTES).hexdigest()


def encoding(model: MultimodalModel) -> Encoding:
    """How a model's vision encoder, splitter and picture policy encode.

    Raises:
        TrainingError: the views of a picture are not the same each time.
    """
    pipeline, encoder = model.pictures, model.vision_encoder
    if why := drawn_views(model.spec.vision_encoder, model.spec.image_splitter):
        raise TrainingError(f"cache: {why}")
    pixels = hashlib.blake2b(digest_size=KEY_BYTES)
    for size in _PROBES:
        views = pipeline.prepare(_probe(size)).pixels
        again = pipeline.prepare(_probe(size)).pixels
        if not torch.equal(views, again):
            raise TrainingError(
                "cache: the encoder's transform or the splitter makes other views of the same picture each time, so"
                " that features cannot be kept; set cache: off"
            )
        pixels.update(f"{tuple(views.shape)}".encode() + views.numpy().tobytes())
    first = pipeline.prepare(_probe(_PROBES[0])).pixels[:1]
    probe = model.encode(first.to(device_of(encoder))).cpu()
    about = {
        "format": FORMAT,
        "encoder": _spec(model.spec.vision_encoder),
        "structure": hashlib.blake2b(repr(encoder).encode(), digest_size=KEY_BYTES).hexdigest(),
        "weights": weights_hash(encoder),
        "splitter": _spec(model.spec.image_splitter),
        "policy": pipeline.policy.model_dump(mode="json"),
        "pixels": pixels.hexdigest(),
        "dtype": str(probe.dtype).removeprefix("torch."),
        "tokens": probe.shape[1],
        "width": probe.shape[2],
    }
    return Encoding(about, probe)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module is; the CPU where it has no tensors."""
    return next((tensor.device for _, tensor in _tensors(module)), torch.device("cpu"))


def weights_hash(module: torch.nn.Module) -> str:
    """Hash of every parameter and buffer with its name, type and shape."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for name, tensor in _tensors(module):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_key(root: Path, name: str) -> bytes:
    """Key of a file as it is now: path, size and times of change.

    Raises:
        OSError: it is not there.
    """
    path = os.path.join(root, name)  # noqa: PTH118 - Path is too slow for every picture
    found = os.stat(path)  # noqa: PTH116
    return _hash(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}".encode())


def picture_key(root: Path, name: str) -> bytes:
    """Key of a row's picture within one run, without a look at the disk."""
    return _hash(f"{root}\0{name}".encode())


def content_key(path: Path) -> bytes:
    """Key of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def entry_key(content: bytes, layout: TileLayout) -> bytes:
    """Key of a picture's features: its bytes, and how it is cut (which may depend on the connector)."""
    cut = (layout.views, layout.image_size, layout.canvas, layout.tiles, layout.view_size)
    return _hash(content + repr(cut).encode())


def _hash(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()  # also those that are not saved


def _spec(spec: Any) -> dict[str, Any]:
    """A part's settings without the places of its weights."""
    places = set(spec.sources().values()) if hasattr(spec, "sources") else set()
    return {"class": type(spec).__qualname__, **_without(spec.model_dump(mode="json"), places)}


def _without(value: Any, places: set[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, places) for k, v in value.items() if not (isinstance(v, str) and v in places)}
    return [_without(item, places) for item in value] if isinstance(value, list) else value


def _probe(size: Size) -> Image.Image:
    """A picture with edges, slopes and every colour, the same everywhere."""
    down, across = np.indices(size)
    planes = [down * 7 + across * 3, (down // 9 + across // 13) * 97, down * across // 5]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))
