"""The one image decoder for every way in: the same image gives the same pixels, or one clear error.

A path, an image that Pillow opened, the bytes of a file, a stream, a data URI, base64, an array, a tensor: all come out
as `pictures.open_picture` gives the file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from PIL import Image

from lensmith.data.decoding import decode_stream
from lensmith.data.inline_images import from_base64, from_data_uri, is_data_uri, like_base64
from lensmith.data.pictures import DEFAULT_POLICY, open_picture
from lensmith.data.pixels import PictureError, refusal, to_rgb
from lensmith.spec.pictures import PicturePolicy

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ImageInput", "PictureError", "decode_image"]


class ArrayLike(Protocol):
    """What numpy can read: its arrays, tensors."""

    def __array__(self) -> np.ndarray: ...


ImageInput = str | Path | Image.Image | bytes | bytearray | memoryview | BinaryIO | Mapping[str, Any] | ArrayLike
"""Forms in which somebody may have an image; see `decode_image`."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_STATED = "an array is (height, width), or (height, width, channels) with 1, 2, 3 or 4 of them, in uint8 or uint16"
_CHANNELS = {2: "LA", 3: "RGB", 4: "RGBA"}


def decode_image(source: Any, policy: PicturePolicy = DEFAULT_POLICY, name: str = "") -> Image.Image:
    """8-bit RGB pixels of an image, in whatever form somebody has it.

    Args:
        source: one of these.

            - a path (`str` or `Path`);
            - an image of Pillow, opened or made: what a file says of rotation, transparency and frames still counts;
            - the bytes of an image file (`bytes`, `bytearray`, `memoryview`), or a binary stream of them, read from its
              beginning;
            - a data URI, or base64 as text;
            - an array (numpy, or what has `__array__`): (height, width) or (height, width, channels) with grey, grey
              and alpha, RGB or RGBA, `uint8`, `uint16` (white is 65535) or `bool`;
            - a torch tensor: the same numbers, as (channels, height, width) or (height, width);
            - `{"bytes": …, "path": …}`, as the `datasets` library has images that it did not decode.
        policy: which images are taken, and how.
        name: what messages call it; by default the path, or what kind of thing it is.

    Returns:
        An image in memory without metadata; `source` is left as it was.

    Raises:
        PictureError: what cannot be used, with the cure.
        DataError: Pillow is set to accept truncated files in this process.
    """
    if isinstance(source, Path):
        return open_picture(source, policy)
    if isinstance(source, str):
        return _text(source, policy, name)
    if isinstance(source, Image.Image):
        return to_rgb(source, name or _opened(source), policy)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_stream(io.BytesIO(source), name or f"{len(source):,} bytes", policy)
    if isinstance(source, Mapping):
        return _undecoded(source, policy, name)
    if callable(getattr(source, "read", None)):
        return _stream(source, policy, name)
    if type(source).__module__.partition(".")[0] == "torch" and hasattr(source, "detach"):
        return _tensor(source, policy, name or "a tensor")
    if hasattr(source, "__array__"):
        import numpy as np

        return _array(np.asarray(source), policy, name or "an array")
    raise refusal(
        name or f"{source!r:.60}",
        f"is {type(source).__name__}, not an image",
        "pass a path, an image of Pillow, bytes, a stream, a data URI, an array (height, width, channels) or a tensor",
    )


def is_inline(text: str) -> bool:
    """Whether a text is an image or its address rather than a path."""
    return is_data_uri(text) or like_base64(text) or _ADDRESS.match(text) is not None


def _text(text: str, policy: PicturePolicy, name: str) -> Image.Image:
    inline = is_data_uri(text)
    if inline or like_base64(text):
        told = name or ("a data URI" if inline else "a base64 text")
        try:
            data = from_data_uri(text) if inline else from_base64(text)
        except ValueError as error:
            raise refusal(told, f"cannot be read as an image: {error}", "encode the file's bytes again") from None
        return decode_stream(io.BytesIO(data), told, policy)
    if _ADDRESS.match(text):
        raise refusal(f"{text:.200}", "is an address, and nothing is fetched here", "fetch it and pass the file")
    return open_picture(Path(text), policy)


def _stream(stream: Any, policy: PicturePolicy, name: str) -> Image.Image:
    told = name or f"a {type(stream).__name__}"
    place = None
    try:
        if stream.seekable():
            place = stream.tell()
            stream.seek(0)
        data = stream.read()
        if place is not None:
            stream.seek(place)
    except Exception as error:  # of any class that has `read`
        raise refusal(told, f"cannot be read ({error})", "pass the bytes of an image file") from error
    if not isinstance(data, bytes):
        raise refusal(told, f"reads as {type(data).__name__}", 'open the file in binary mode ("rb")')
    return decode_stream(io.BytesIO(data), told, policy)


def _undecoded(source: Mapping[Any, Any], policy: PicturePolicy, name: str) -> Image.Image:
    data, path = source.get("bytes"), source.get("path")
    if isinstance(data, (bytes, bytearray)):
        return decode_image(data, policy, name or (str(path) if path else ""))
    if data is None and isinstance(path, str) and path:
        return decode_image(path, policy, name)
    raise refusal(
        name or "a mapping",
        f"has keys {sorted(map(str, source))}",
        'pass {"bytes": …} or {"path": …}, or the image itself',
    )


def _tensor(tensor: Any, policy: PicturePolicy, name: str) -> Image.Image:
    shape = tuple(tensor.shape)
    if tensor.ndim == 3:
        if shape[0] not in (1, 2, 3, 4):
            cure = "permute it to (channels, height, width)" if shape[2] in (1, 2, 3, 4) else "pass one image"
            raise refusal(name, f"has shape {shape}; a tensor is (channels, height, width) or (height, width)", cure)
        tensor = tensor.permute(1, 2, 0)
    elif tensor.ndim != 2:
        raise refusal(name, f"has shape {shape}; a tensor is (channels, height, width) or (height, width)", _one(shape))
    if tensor.is_floating_point():
        raise _unknown_white(name, str(tensor.dtype), "(tensor * 255).round().to(torch.uint8) where white is 1")
    try:
        numbers = tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:
        raise refusal(name, f"cannot be read ({error})", "pass a dense tensor of torch.uint8") from error
    return _array(numbers, policy, name)


def _array(array: np.ndarray, policy: PicturePolicy, name: str) -> Image.Image:
    import numpy as np

    if array.ndim not in (2, 3):
        raise refusal(name, f"has shape {array.shape}; {_STATED}", _one(array.shape))
    if array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4):
        cure = "transpose it to (height, width, channels)" if array.shape[0] in (1, 2, 3, 4) else "pass one image"
        raise refusal(name, f"has shape {array.shape}; {_STATED}", cure)
    if 0 in array.shape:
        raise refusal(name, f"has shape {array.shape}, without a pixel", "pass an image")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        raise _unknown_white(name, str(array.dtype), "(array * 255).round().astype(np.uint8) where white is 1")
    if array.dtype.newbyteorder("=") not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise _unknown_white(name, str(array.dtype), "array.astype(np.uint8) where white is 255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.dtype.itemsize == 2:
        array = array >> 8  # as Pillow reads 16-bit colours of files
    if array.ndim == 2 and array.dtype.itemsize == 2:
        image = Image.fromarray(np.ascontiguousarray(array, np.uint16))
    else:
        rows = np.ascontiguousarray(array, np.uint8)
        mode = "L" if rows.ndim == 2 else _CHANNELS[rows.shape[2]]
        image = Image.frombytes(mode, (rows.shape[1], rows.shape[0]), rows.tobytes())
    return to_rgb(image, name, policy)


def _unknown_white(name: str, dtype: str, cure: str) -> PictureError:
    return refusal(name, f"holds {dtype}, whose black and white are not known", f"pass {cure}")


def _one(shape: tuple[int, ...]) -> str:
    return "pass its images one by one, in a list" if len(shape) == 4 else "pass one image"


def _opened(image: Image.Image) -> str:
    file = getattr(image, "filename", "")
    return str(file) if file else f"an image ({image.mode}, {image.width} x {image.height})"
