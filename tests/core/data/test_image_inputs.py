"""One decoder for every way in: the same image gives the same pixels, or one clear error."""

from __future__ import annotations

import base64
import io
import pickle
import struct
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

import lensmith
from lensmith.data.image_inputs import PictureError, decode_image
from lensmith.data.pictures import PicturePolicy, open_picture, picture_size

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("error")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def exif_of(orientation: int) -> bytes:
    return turned(orientation).tobytes().removeprefix(b"Exif\0\0")


def palette(**transparency: Any) -> bytes:
    image = Image.new("P", (4, 2))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putdata([0, 1, 2, 1, 0, 2, 1, 0])
    return saved(image, "PNG", **transparency)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth: int, colour: int, rows: bytes, trns: bytes = b"", behind: bytes = b"", width: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    blank = chunk(b"tRNS", trns) if trns else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + blank
        + chunk(b"IDAT", zlib.compress(b"\0" + rows))
        + behind
        + chunk(b"IEND", b"")
    )


RGB = Image.fromarray(noise(16, 24, 3))
FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(RGB, "JPEG"),
    **{f"jpeg, EXIF {n}": (lambda n=n: saved(RGB, "JPEG", exif=turned(n))) for n in (2, 3, 5, 6, 7, 8)},
    "png, EXIF 3": lambda: saved(RGB, "PNG", exif=turned(3)),
    "png, EXIF 6 behind the pixels": lambda: png(8, 2, noise(6).tobytes(), behind=chunk(b"eXIf", exif_of(6))),
    "webp, EXIF 6": lambda: saved(RGB, "WEBP", lossless=True, exif=turned(6)),
    "tiff, EXIF 6": lambda: saved(RGB, "TIFF", exif=turned(6)),
    "16-bit grey png": lambda: saved(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"),
    "16-bit grey png, EXIF 8": lambda: saved(
        Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG", exif=turned(8)
    ),
    "16-bit grey tiff": lambda: saved(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "TIFF"),
    "16-bit grey pgm": lambda: saved(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PPM"),
    "16-bit colour": lambda: png(16, 2, noise(12).tobytes()),
    "alpha png": lambda: saved(Image.fromarray(noise(9, 7, 4)), "PNG"),
    "alpha webp": lambda: saved(Image.fromarray(noise(9, 7, 4)), "WEBP", lossless=True, exact=True),
    "alpha png, EXIF 3": lambda: saved(Image.fromarray(noise(9, 7, 4)), "PNG", exif=turned(3)),
    "grey and alpha": lambda: saved(Image.fromarray(noise(9, 7, 2), "LA"), "PNG"),
    "palette": lambda: palette(),
    "palette with one blank colour": lambda: palette(transparency=1),
    "palette with alphas": lambda: palette(transparency=bytes([255, 0, 128])),
    "transparent gif": lambda: saved(Image.new("P", (5, 4), 1), "GIF", transparency=1),
    "blank colour of 2 bits": lambda: png(2, 0, b"\x60", struct.pack(">H", 1)),
    "blank colour of 8 bits": lambda: png(8, 0, b"\x0a\x14", struct.pack(">H", 10)),
    "blank colour of 16 bits": lambda: png(16, 2, b"\x01\x01" * 3 + b"\x02\x02" * 3, struct.pack(">3H", 257, 257, 257)),
    "blank dark colour of 16 bits": lambda: png(16, 2, b"\0\x03" * 3 + b"\x02\x02" * 3, struct.pack(">3H", 3, 3, 3)),
    "cmyk jpeg": lambda: saved(RGB.convert("CMYK"), "JPEG"),
    "cmyk tiff": lambda: saved(RGB.convert("CMYK"), "TIFF"),
    "1-bit": lambda: saved(RGB.convert("1"), "PNG"),
    "grey": lambda: saved(RGB.convert("L"), "BMP"),
    "ppm": lambda: saved(RGB, "PPM"),
}

UNCLEAR = ("blank colour of 2 bits", "blank dark colour of 16 bits")
"""What these mean stands in the file alone."""
POLICIES = [PicturePolicy(), PicturePolicy(alpha="drop", exif=False)]


def opened(path: Path) -> Image.Image:
    return Image.open(path)


def loaded(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def copied(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def streamed(path: Path) -> io.BytesIO:
    stream = io.BytesIO(path.read_bytes())
    stream.seek(7)
    return stream


WAYS: dict[str, Callable[[Path], Any]] = {
    "path as text": str,
    "opened": opened,
    "loaded": loaded,
    "opened from a stream": lambda path: Image.open(streamed(path)),
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "stream": streamed,
    "data URI": lambda path: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(),
    "base64": lambda path: base64.b64encode(path.read_bytes()).decode(),
    "base64 with line breaks": lambda path: base64.encodebytes(path.read_bytes()).decode(),
    "URL-safe base64 without padding": lambda path: base64.urlsafe_b64encode(path.read_bytes()).decode().rstrip("="),
    "undecoded, bytes": lambda path: {"bytes": path.read_bytes(), "path": None},
    "undecoded, path": lambda path: {"bytes": None, "path": str(path)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", FILES)
def test_E2_the_same_pixels_whatever_way_in(tmp_path: Path, kind: str, way: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(FILES[kind]())
    for policy in POLICIES:
        expected = open_picture(path, policy)
        assert picture_size(path, policy) == (expected.height, expected.width)
        source = WAYS[way](path)
        before = None
        if (kind, way) == ("transparent gif", "loaded"):
            with pytest.raises(PictureError, match="closed before it came here"):  # whether it moves, nobody knows
                decode_image(source, policy)
            return
        for turn in range(2):  # nothing is used up or changed
            if turn and kind in UNCLEAR and way == "opened from a stream" and policy.alpha == "white":
                with pytest.raises(PictureError, match="loaded from a stream"):
                    decode_image(source, policy)
                break
            found = decode_image(source, policy)
            if isinstance(source, Image.Image):
                before = before or (source.tobytes(), dict(source.info))
                assert (source.tobytes(), dict(source.info)) == before
            assert type(found) is Image.Image
            assert (found.mode, found.info, dict(found.getexif())) == ("RGB", {}, {})
            assert np.array_equal(np.asarray(found), np.asarray(expected)), (kind, way)
        if isinstance(source, io.BytesIO):
            assert source.tell() == 7
        if isinstance(source, Image.Image):
            source.close()


@pytest.mark.parametrize("kind", [kind for kind in FILES if "16-bit" not in kind])
def test_E2_a_copy_in_memory_keeps_its_rotation_and_alpha(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(FILES[kind]())
    if kind.startswith("blank") and "8 bits" not in kind:
        pytest.skip("Pillow's copy no longer says how many bits its transparent colour has")
    assert np.array_equal(np.asarray(decode_image(copied(path))), np.asarray(open_picture(path)))


def test_E2_an_upright_image_is_not_turned_again(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(FILES["jpeg, EXIF 6"]())
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    assert np.array_equal(np.asarray(decode_image(upright)), np.asarray(open_picture(path)))
    once = decode_image(path)
    assert np.array_equal(np.asarray(decode_image(once)), np.asarray(once))
    assert decode_image(once) is not once


def test_E2_the_turned_copy_that_a_data_set_hands_out(tmp_path: Path) -> None:
    """What `Image.open(path).convert("RGB")` gives still says how it is turned, and is turned."""
    path = tmp_path / "image"
    path.write_bytes(FILES["jpeg, EXIF 3"]())
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(decode_image(image.convert("RGB"))), np.asarray(open_picture(path)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
@pytest.mark.parametrize("way", WAYS)
def test_E2_animations_are_refused_or_give_their_first_frame(tmp_path: Path, kind: str, way: str) -> None:
    path = tmp_path / "image"
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    path.write_bytes(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    first = PicturePolicy(first_frame=True)
    source = WAYS[way](path)
    with pytest.raises(PictureError, match=r"has 3 frames.*first_frame" if way != "loaded" else r"3 frames|was closed"):
        decode_image(source)
    if way != "loaded":  # Pillow has closed it
        assert (np.asarray(decode_image(source, first)) == (255, 0, 0)).all()
    if isinstance(source, Image.Image):
        source.close()


def test_E2_a_frame_that_was_chosen_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    (tmp_path / "a.gif").write_bytes(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    with Image.open(tmp_path / "a.gif") as image:
        image.seek(1)
        assert (np.asarray(decode_image(image)) == (0, 255, 0)).all()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (noise(5, 6, 3), noise(5, 6, 3)),
        (noise(5, 6, 3)[:, ::-1], noise(5, 6, 3)[:, ::-1]),
        (np.asfortranarray(noise(5, 6, 3)), noise(5, 6, 3)),
        (noise(5, 6), np.repeat(noise(5, 6)[..., None], 3, 2)),
        (noise(5, 6, 1), np.repeat(noise(5, 6, 1), 3, 2)),
        (noise(5, 6).astype(np.uint16) * 257, np.repeat(noise(5, 6)[..., None], 3, 2)),
        ((noise(5, 6).astype(np.uint16) * 257).astype(">u2"), np.repeat(noise(5, 6)[..., None], 3, 2)),
        (noise(5, 6, 3).astype(np.uint16) * 257, noise(5, 6, 3)),
        (noise(5, 6) > 127, np.repeat(((noise(5, 6) > 127) * 255)[..., None], 3, 2)),
        (np.concatenate([noise(5, 6, 3), np.zeros((5, 6, 1), np.uint8)], 2), np.full((5, 6, 3), 255)),
        (np.concatenate([noise(5, 6, 1), np.zeros((5, 6, 1), np.uint8)], 2), np.full((5, 6, 3), 255)),
    ],
)
def test_E2_arrays_and_tensors(array: np.ndarray, expected: np.ndarray) -> None:
    assert np.array_equal(np.asarray(decode_image(array)), expected)
    if array.dtype in (np.uint8, bool):
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        assert np.array_equal(
            np.asarray(decode_image(tensor if array.ndim == 2 else tensor.permute(2, 0, 1))), expected
        )


REFUSED = {
    "floats": (noise(5, 6, 3) / 255, "float64, whose black and white are not known", "* 255"),
    "halves": (noise(5, 6, 3).astype(np.float16), "float16", "* 255"),
    "wide integers": (noise(5, 6, 3).astype(np.int64), "int64", "astype(np.uint8)"),
    "complex": (noise(5, 6).astype(complex), "complex128", "astype"),
    "objects": (np.array([["a", "b"]], dtype=object), "object", "astype"),
    "channels first": (noise(3, 50, 60), "(3, 50, 60)", "transpose it"),
    "seven channels": (noise(50, 60, 7), "(50, 60, 7)", "pass one image"),
    "a batch": (noise(2, 5, 6, 3), "(2, 5, 6, 3)", "one by one"),
    "a row": (noise(5), "(5,)", "pass one image"),
    "nothing": (noise(0, 6, 3), "without a pixel", "pass an image"),
    "a tensor of floats": (torch.rand(3, 5, 6), "float32, whose black and white", "* 255"),
    "a tensor of halves": (torch.rand(3, 5, 6).bfloat16(), "bfloat16", "* 255"),
    "a tensor, channels last": (torch.zeros(50, 60, 3, dtype=torch.uint8), "(50, 60, 3)", "permute it"),
    "a batch of tensors": (torch.zeros(1, 3, 5, 6, dtype=torch.uint8), "(1, 3, 5, 6)", "one by one"),
    "an address": ("https://example.org/a.png", "is an address", "fetch it"),
    "a file address": ("file:///tmp/a.png", "is an address", "pass the file"),
    "no bytes": (b"", "is empty", "fetch the file again"),
    "other bytes": (b"hello, this is no image", "is not a picture that can be read", "PNG or JPEG"),
    "cut bytes": (saved(RGB, "JPEG")[:300], "is truncated", "fetch"),
    "text mode": (io.StringIO("abc"), "reads as str", "rb"),
    "a data URI without base64": ("data:image/svg+xml,<svg/>", "is not base64", "encode"),
    "a data URI of text": ("data:text/plain;base64," + base64.b64encode(b"hello there, world").decode(), "text", "PNG"),
    "damaged base64": ("data:image/png;base64,iVBORw0!KGgo", "'!'", "encode"),
    "cut base64": ("data:image/png;base64,iVBOR", "a piece of it is missing", "encode"),
    "both alphabets": ("data:image/png;base64,iV+ORw0-Ggoo", "mixes", "encode"),
    "percents": ("data:image/png;base64,iVBORw0KGgo%3D", "percent-encoded", "encode"),
    "a number": (7, "is int, not an image", "pass a path"),
    "none": (None, "is NoneType", "pass a path"),
    "a mapping": ({"url": "x"}, "['url']", '"bytes"'),
    "float image": (Image.new("F", (4, 4)), "floating-point", "8 or unsigned 16"),
    "wide image": (Image.new("I", (4, 4)), "32-bit integers", "8 or unsigned 16"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_E2_what_cannot_be_used_is_one_clear_error(kind: str) -> None:
    source, *words = REFUSED[kind]
    with pytest.raises(PictureError) as caught:
        decode_image(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message, message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_E2_the_policy_holds_for_every_way_in() -> None:
    policy = PicturePolicy(max_pixels=100)
    data = saved(RGB, "PNG")
    for source in (RGB, np.asarray(RGB), data, io.BytesIO(data), Image.open(io.BytesIO(data))):
        with pytest.raises(PictureError, match="384 pixels where 100"):
            decode_image(source, policy)
    with pytest.raises(PictureError, match="200 times"):
        decode_image(np.zeros((1, 201, 3), np.uint8))


def test_E2_a_closed_image_is_said_to_be_closed(tmp_path: Path) -> None:
    RGB.save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        pass
    with pytest.raises(PictureError, match="closed before it came here"):
        decode_image(image)


def test_E2_a_long_name_of_a_file_is_no_base64(tmp_path: Path) -> None:
    name = "R0lGOD" + "a" * 80 + ".png"
    RGB.save(tmp_path / name)
    assert np.array_equal(np.asarray(decode_image(str(tmp_path / name))), np.asarray(RGB))
    with pytest.raises(PictureError, match="there is no such file"):
        decode_image("missing.png")


def test_E2_base64_as_tools_wrap_it() -> None:
    data = saved(RGB, "PNG")
    plain = base64.b64encode(data).decode()
    for text in (textwrap.fill(plain, 76), plain.replace("A", "A\r\n"), f"  {plain}\n", plain.rstrip("=")):
        assert np.array_equal(np.asarray(decode_image(f"data:image/jpeg;charset=utf-8;base64,{text}")), np.asarray(RGB))


@pytest.mark.parametrize(
    "data",
    [
        b"P3\n" + b"# " + b"c" * 900_000 + b"\n2 1\n255\n" + b"0 " * 6,
        b"P3 2 1 255 " + b"0 " * 6,
        b"P1 2 1 0 1",
        b"P6 2 1 1023 " + b"\0" * 12,
        b"P6" + b" " * 5000 + b"2 1 255 " + b"\0" * 6,
        b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + b"\0" * 6,
    ],
)
def test_A4_slow_kinds_of_ppm_are_not_read(data: bytes) -> None:
    with pytest.raises(PictureError, match="PPM of a kind that is not read"):
        decode_image(data)


def test_A4_binary_ppm_with_a_short_comment_is_read() -> None:
    assert np.asarray(decode_image(b"P6 # by a scanner\n2 1\n255\n" + bytes(range(6)))).ravel().tolist() == list(
        range(6)
    )
    assert np.asarray(decode_image(b"P4\n8 1\n\xf0")).ravel().tolist() == [0] * 12 + [255] * 12


def test_A4_a_large_bmp_of_runs_is_not_read() -> None:
    width, height = 4096, 600
    runs = (b"\x01\x00" * width + b"\0\0") * height  # a run a pixel
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    data = b"BM" + struct.pack("<IHHI", 54 + 1024 + len(runs), 0, 0, 54 + 1024) + header + bytes(1024) + runs
    with pytest.raises(PictureError, match="run-length BMP"):
        decode_image(data)


def test_E2_text_behind_a_pngs_pixels_does_not_turn_it() -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"tEXt", b"Comment\0" + b"x" * 100, after_idat=True)
    assert np.array_equal(np.asarray(decode_image(saved(RGB, "PNG", pnginfo=info))), np.asarray(RGB))


def test_E2_it_is_public() -> None:
    assert lensmith.decode_image is decode_image
