"""Every kind of picture that users have, as real files: what comes out, and what is refused with which words."""

from __future__ import annotations

import os
import pickle
import re
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, ImageOps, JpegImagePlugin
from pydantic import ValidationError

from lensmith.data.pictures import PictureError, PicturePolicy, open_picture, picture_size, resolve_inside
from lensmith.errors import DataError

SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[3].parent / "shared"))
GOLDEN = SHARED / "golden" / "images"
ORIGINAL = PicturePolicy(alpha="drop", exif=False)

# Nothing may leak: no decompression-bomb warning, no palette warning, no unclosed file.
pytestmark = pytest.mark.filterwarnings("error")


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


def array(path: Path, policy: PicturePolicy | None = None) -> np.ndarray:
    """Decode, and hold every picture to what is always promised."""
    policy = policy or PicturePolicy()
    picture = open_picture(path, policy)
    assert type(picture) is Image.Image
    assert picture.mode == "RGB"
    assert picture.info == {}
    assert not picture.getexif()
    assert picture_size(path, policy) == (picture.height, picture.width)
    return np.asarray(picture)


def pillow(path: Path) -> np.ndarray:
    """What the original LLaVA does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))


def as_opened(path: Path) -> tuple[str | None, str]:
    """Format and mode as Pillow sees them."""
    with Image.open(path) as image:
        return image.format, image.mode


def refused(path: Path, *words: str, policy: PicturePolicy | None = None, by_header: bool = True) -> str:
    """Assert that the picture is refused as `path: what is wrong; cure`, also by `picture_size`."""
    policy = policy or PicturePolicy()
    with pytest.raises(PictureError) as caught:
        open_picture(path, policy)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "; " in message
    for word in words:
        assert word in message, message
    if by_header:
        with pytest.raises(PictureError, match=re.escape(words[0] if words else str(path))):
            picture_size(path, policy)
    return message


def png(path: Path, size: tuple[int, int], depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG by hand, with depths and transparent colours that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width, height = size
    stride = len(rows) // max(height, 1)
    lines = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height if rows else 0))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(chunk(*named) for named in chunks) + chunk(b"IDAT", zlib.compress(lines))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b""))
    return path


def tiff(path: Path, size: tuple[int, int], bits: int, photometric: int, data: bytes, sample_format: int = 1) -> Path:
    """An uncompressed grey TIFF by hand."""
    width, height = size
    entries = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    entries += [(273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, sample_format)]
    data += b"\0" * (len(data) % 2)
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHI", tag, kind, 1) + struct.pack("<H2x" if kind == 3 else "<I", value)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + b"\0\0\0\0")
    return path


# ---- what comes out ----


@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden pictures; set LENSMITH_SHARED")
def test_golden_pictures() -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    expected = safetensors.load_file(GOLDEN / "inputs_rgb_uint8.safetensors")
    paths = sorted((GOLDEN / "inputs").iterdir())
    assert len(paths) == 16
    for path in paths:
        key = path.name if path.name in expected else path.stem
        assert np.array_equal(array(path, ORIGINAL), expected[key]), path.name
        if not path.name.startswith(("rgba", "la")):
            assert np.array_equal(array(path), expected[key]), path.name


PLAIN: dict[str, Callable[[], Image.Image]] = {
    "RGB": lambda: Image.fromarray(noise(23, 31)),
    "L": lambda: Image.fromarray(noise(23, 31, 1)),
    "1": lambda: Image.fromarray(noise(23, 31, 1)).convert("1"),
    "P": lambda: Image.fromarray(noise(23, 31)).quantize(64),
}


HOLDS = {
    "png": ("RGB", "L", "1", "P", "I;16"),
    "jpg": ("RGB", "L", "1", "CMYK"),
    "gif": ("RGB", "L", "1", "P"),
    "bmp": ("RGB", "L", "1", "P"),
    "tiff": ("RGB", "L", "1", "P", "I;16", "CMYK"),
    "webp": ("RGB", "L", "1", "P", "CMYK"),
    "ppm": ("RGB", "L", "1", "I;16"),
}
"""Modes that each format can be asked to save."""


@pytest.mark.parametrize(("suffix", "mode"), [(s, m) for s, modes in HOLDS.items() for m in modes if m in PLAIN])
def test_plain_pictures_are_as_pillow_has_them(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"plain.{suffix}"
    image = PLAIN[mode]()
    image.save(path)
    for policy in (PicturePolicy(), ORIGINAL):
        assert np.array_equal(array(path, policy), pillow(path))


@pytest.mark.parametrize("options", [{"quality": 30}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_jpegs_are_as_pillow_has_them(tmp_path: Path, options: dict[str, int]) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(40, 50)).resize((200, 160)).save(path, **options)
    assert np.array_equal(array(path), pillow(path))


def test_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(noise(5, 6)).save(path, "PNG")
    assert np.array_equal(array(path), noise(5, 6))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(noise(16, 24)).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = array(path)
    assert np.array_equal(found, expected)
    assert found.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))
    assert np.array_equal(array(path, ORIGINAL), pillow(path))
    if orientation == 6 and suffix == "png":  # and the convention itself, once: 6 is shown turned clockwise
        assert np.array_equal(found, np.rot90(noise(16, 24), k=-1))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"]
)
def test_damaged_exif_never_costs_the_picture(tmp_path: Path, exif: bytes) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(8, 9)).save(path, exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow says what it could not read
        assert np.array_equal(array(path), pillow(path))


@pytest.mark.parametrize("value", [0, 9, 4096])
def test_unknown_orientation_is_no_orientation(tmp_path: Path, value: int) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    Image.fromarray(noise(8, 9)).save(path, exif=exif)
    assert np.array_equal(array(path), noise(8, 9))


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(np.float64) / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_rgba_is_laid_over_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pixels = noise(20, 30, 4)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    Image.fromarray(pixels).save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    found = array(path)
    assert np.abs(found - over_white(pixels[..., :3], pixels[..., 3])).max() <= 1  # rounding
    assert (found[0] == 255).all()
    assert np.array_equal(found[1], pixels[1, :, :3])
    assert np.array_equal(array(path, ORIGINAL), pixels[..., :3])
    assert np.array_equal(array(path, ORIGINAL), pillow(path))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_with_alpha(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pixels = noise(20, 30, 2)
    Image.fromarray(pixels, "LA").save(path)
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    assert np.abs(array(path) - over_white(grey, pixels[..., 1])).max() <= 1
    assert np.array_equal(array(path, ORIGINAL), grey)


def test_grey_multiplied_with_its_alpha(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    pixels = noise(20, 30, 2)
    Image.fromarray(pixels, "LA").save(path)
    data = path.read_bytes()
    unassociated, associated = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))
    assert data.count(unassociated) == 1
    path.write_bytes(data.replace(unassociated, associated))
    assert as_opened(path)[1] == "La"
    # Its grey already holds the alpha; what may exceed it is cut off.
    expected = np.minimum(pixels[..., 0].astype(int) + 255 - pixels[..., 1], 255)
    assert np.abs(array(path)[..., 0] - expected).max() <= 1


def test_palette_with_alpha_channel(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    image = Image.new("PA", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), (0, 255))
    image.putpixel((1, 0), (1, 0))
    image.save(path)
    assert as_opened(path)[1] == "PA"
    assert array(path).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert array(path, ORIGINAL).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])], ids=["one entry", "an alpha per entry"])
def test_transparent_palette(tmp_path: Path, transparency: int | bytes) -> None:
    path = tmp_path / "a.png"
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putdata([0, 1, 2])
    image.save(path, transparency=transparency)
    third = [0, 0, 200] if isinstance(transparency, int) else [127, 127, 227]
    assert array(path).tolist() == [[[200, 0, 0], [255, 255, 255], third]]
    assert array(path, ORIGINAL).tolist() == [[[200, 0, 0], [0, 200, 0], [0, 0, 200]]]
    assert np.array_equal(array(path, ORIGINAL), pillow(path))


def test_transparent_gif(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putdata([0, 1])
    image.save(path, transparency=1)
    assert array(path).tolist() == [[[200, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("depth", "colour", "rows", "trns", "shown", "stored"),
    [
        (8, 0, b"\x0a\x14", (10,), [255, 20], [10, 20]),
        (1, 0, b"\x40", (0,), [255, 255], [0, 255]),
        (2, 0, b"\x60", (1,), [255, 170], [85, 170]),
        (4, 0, b"\x35", (3,), [255, 85], [51, 85]),
        (16, 0, b"\x01\x01\x02\x02", (257,), [255, 2], [1, 2]),
        (8, 2, b"\x01\x01\x01\x02\x02\x02", (1, 1, 1), [255, 2], [1, 2]),
        (16, 2, b"\x01\x01" * 3 + b"\x02\x02" * 3, (257, 257, 257), [255, 2], [1, 2]),
    ],
)
def test_transparent_colour(
    tmp_path: Path, depth: int, colour: int, rows: bytes, trns: tuple[int, ...], shown: list[int], stored: list[int]
) -> None:
    path = png(tmp_path / "a.png", (2, 1), depth, colour, rows, (b"tRNS", struct.pack(f">{len(trns)}H", *trns)))
    assert array(path).tolist() == [[[grey] * 3 for grey in shown]]
    assert array(path, ORIGINAL).tolist() == [[[grey] * 3 for grey in stored]]


def ramp16() -> np.ndarray:
    return np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(ramp16()).save(path)
    expected = np.floor(ramp16() / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(array(path), np.repeat(expected[..., None], 3, axis=2))


def test_16_bit_grey_big_endian_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.frombytes("I;16B", (256, 256), ramp16().astype(">u2").tobytes()).save(path)
    assert as_opened(path)[1] == "I;16B"
    assert np.array_equal(array(path)[..., 0], np.floor(ramp16() / 257 + 0.5).astype(np.uint8))


def test_16_bit_grey_is_turned_too(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise(4, 7, 1).astype(np.uint16) * 257).save(path, exif=exif)
    assert np.array_equal(array(path)[..., 0], np.rot90(noise(4, 7, 1), k=-1))


def test_16_bit_grey_where_white_is_zero(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tiff", (2, 1), 16, 0, struct.pack("<2H", 0, 65535))
    assert array(path)[0, :, 0].tolist() == [255, 0]


def test_12_bit_grey(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tiff", (2, 1), 12, 1, b"\xff\xf8\x00")  # 0xfff, 0x800
    assert array(path)[0, :, 0].tolist() == [255, 128]


def test_16_bit_colour(tmp_path: Path) -> None:
    pixels = noise(5, 6)
    path = png(tmp_path / "a.png", (6, 5), 16, 2, (pixels.astype(">u2") * 257).astype(">u2").tobytes())
    assert np.array_equal(array(path), pixels)


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    image = Image.new("CMYK", (32, 16), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (16, 0, 32, 16))
    image.save(path, **({"quality": 100} if suffix == "jpg" else {}))
    if suffix == "jpg":  # Adobe's marker, and thus inverted inks
        assert b"Adobe" in path.read_bytes()[:2000]
    found = array(path)
    assert np.array_equal(found, pillow(path))
    assert np.abs(found[8, 4].astype(int) - (0, 255, 255)).max() <= 3
    assert found[8, 28].max() <= 3


def test_lab_and_ycbcr(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    for mode in ("LAB", "YCbCr"):
        Image.fromarray(noise(8, 8)).convert(mode).save(path)
        assert as_opened(path)[1] == mode
        assert np.array_equal(array(path), pillow(path))


def test_colour_profile_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise(8, 8)).save(path, icc_profile=b"not even a profile")
    assert np.array_equal(array(path), noise(8, 8))


def test_camera_file_with_a_second_picture(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    first, second = Image.fromarray(noise(64, 48)), Image.fromarray(noise(32, 24, seed=1))
    first.save(path, "MPO", save_all=True, append_images=[second])
    assert as_opened(path)[0] == "MPO"
    assert np.array_equal(array(path), pillow(path))


# ---- several frames ----


def animation(path: Path) -> Path:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in path.name else {}))
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tiff"])
def test_frames(tmp_path: Path, name: str) -> None:
    path = animation(tmp_path / name)
    refused(path, "has 3 frames", "first_frame: true")
    assert (array(path, PicturePolicy(first_frame=True)) == (255, 0, 0)).all()


# ---- refused ----


def test_floats_and_wide_integers(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)).save(path)
    refused(path, "floating-point numbers", "8 or unsigned 16 bits")
    Image.fromarray(np.arange(12, dtype=np.int32).reshape(3, 4)).save(path)
    refused(path, "32-bit integers", "8 or unsigned 16 bits")
    tiff(path, (2, 1), 16, 1, struct.pack("<2h", -5, 5), sample_format=2)
    refused(path, "signed or 32-bit integers")
    Image.fromarray(np.ones((3, 4), dtype=np.float32)).save(tmp_path / "a.pfm")
    refused(tmp_path / "a.pfm", "floating-point numbers")


SAVED = {
    "jpg": {"quality": 95},
    "progressive.jpg": {"quality": 95, "progressive": True},
    "png": {},
    "interlaced.gif": {"interlace": 1},
    "gif": {"interlace": 0},
    "bmp": {},
    "tiff": {},
    "lzw.tiff": {"compression": "tiff_lzw"},
    "jpeg.tiff": {"compression": "jpeg"},
    "webp": {},
    "lossless.webp": {"lossless": True},
    "ppm": {},
}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", SAVED)
def test_truncated(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / f"a.{name}"
    image = Image.fromarray(noise(128, 128))
    (image.quantize(64) if name.endswith("gif") else image).save(path, **SAVED[name])
    array(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    message = refused(path, by_header=False)
    if not name.endswith("tiff"):  # whose directory may be what was lost
        assert "is truncated" in message


def test_truncated_in_a_process_that_accepts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(64, 64)).save(path)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="LOAD_TRUNCATED_IMAGES") as caught:
        open_picture(path)
    assert not isinstance(caught.value, PictureError)  # not this picture's fault, and not to be skipped


def test_damaged_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)).save(path)
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    refused(path, "is damaged", "fetch the file again", by_header=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", ("an HTML page", "<!DOCTYPE html>")),
        (b"\xef\xbb\xbf\n  <HTML>", ("an HTML page",)),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ("an SVG drawing",)),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", ("PostScript",)),
        (b"%PDF-1.7\n", ("a PDF",)),
        (b"version https://git-lfs.github.com/spec/v1\n", ("a Git LFS pointer",)),
        (b'{"error": "not found"}', ("JSON text",)),
        (b"Access denied", ("like text", "Access denied")),
        (b"\0" * 500, ("nothing but zero bytes",)),
        (b"\x93\x01\x00\xfe", ("an unknown kind of file",)),
        (b"\0\0\0\x1cftypavif\0\0\0\0", ("an AVIF picture",)),
        (b"PK\x03\x04\0\0", ("a ZIP archive",)),
    ],
)
def test_no_picture(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    refused(path, "is not a picture that can be read", "GIF, JPEG, PNG", *words)


@pytest.mark.parametrize("suffix", ["eps", "pdf", "ico", "pcx", "tga", "jp2"])
def test_formats_outside_the_list(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(16, 16)).save(path)
    refused(path, "is not a picture that can be read")


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P6\n", b"RIFF"])
def test_a_signature_alone(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(start)
    refused(path)
    path.write_bytes(start + bytes(range(1, 200)))
    refused(path)


def test_empty_missing_directory(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    refused(tmp_path / "empty.jpg", "is an empty file", "fetch the file again")
    refused(tmp_path / "folder.jpg", "is a directory")
    refused(tmp_path / "missing.jpg", "there is no such file", "check the path")
    refused(tmp_path / "empty.jpg" / "a.jpg", "there is no such file")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    refused(tmp_path / "loop.jpg", "cannot be read")
    refused(tmp_path / ("x" * 300), "cannot be read")
    with pytest.raises(PictureError, match="is not a usable path"):
        open_picture(tmp_path / "a\0b.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "pipe.jpg", "is not a regular file")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such permissions here")
def test_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        refused(path, "may not be read", "permission")
    finally:
        os.seteuid(user)


def test_zero_sized(tmp_path: Path) -> None:
    refused(png(tmp_path / "a.png", (0, 5), 8, 2, b""), "width or height of zero")
    refused(png(tmp_path / "a.png", (5, 0), 8, 2, b""), "width or height of zero")
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\x02\x00;")
    refused(tmp_path / "a.gif", "width or height of zero")


def test_900_megapixels_are_refused_by_the_header(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", (30_000, 30_000), 8, 2, b"\0\0\0")
    refused(path, "30000 pixels wide and 30000 high", "900,000,000 pixels where 100,000,000", "`max_pixels`")


def test_a_canvas_that_webp_would_allocate(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + (29_999).to_bytes(3, "little") * 2 + bytes(60)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    refused(path, "900,000,000 pixels")


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}, {"lossless": True, "alpha": True}])
def test_webp_sizes(tmp_path: Path, options: dict[str, bool]) -> None:
    path = tmp_path / "a.webp"
    channels = 4 if options.pop("alpha", False) else 3
    Image.fromarray(noise(37, 91, channels)).save(path, **options)
    assert array(path).shape == (37, 91, 3)
    array(path, PicturePolicy(max_pixels=37 * 91))
    refused(path, "is 91 pixels wide and 37 high", policy=PicturePolicy(max_pixels=37 * 91 - 1))


def test_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (201, 1)).save(path)
    refused(path, "201 pixels wide and 1 high", "200 times", "`max_aspect`")
    assert array(path, PicturePolicy(max_aspect=201)).shape == (1, 201, 3)
    Image.new("RGB", (1, 200)).save(path)
    assert array(path).shape == (200, 1, 3)
    refused(path, "200 pixels where 199", policy=PicturePolicy(max_pixels=199))


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(s, m) for s, modes in HOLDS.items() for m in modes] + [("lzw.tiff", m) for m in HOLDS["tiff"]],
)
@pytest.mark.parametrize("limit", [300, 100], ids=["Pillow would warn", "Pillow would refuse"])
def test_pillows_own_limit_has_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, mode: str, limit: int
) -> None:
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(ramp16()[:16, :25]) if mode == "I;16" else Image.fromarray(noise(16, 25)).convert(mode)
    image.save(path, **({"compression": "tiff_lzw"} if "lzw" in suffix else {}))
    expected = array(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    if suffix == "webp" and limit == 100:  # decided inside Pillow
        refused(path, "Pillow's own limit", "MAX_IMAGE_PIXELS")
    else:
        assert np.array_equal(array(path), expected)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_large_tiff_turned_by_its_own_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(noise(16, 25)).save(path, tiffinfo={274: 6})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert np.array_equal(array(path), np.rot90(noise(16, 25), k=-1))


# ---- the policy, workers, handles ----


def test_policy_is_strict_described_and_frozen() -> None:
    schema = PicturePolicy.model_json_schema()
    assert schema["additionalProperties"] is False
    assert all(field["description"] for field in schema["properties"].values())
    with pytest.raises(ValidationError):
        PicturePolicy(alpah="drop")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        PicturePolicy(max_pixels=0)
    with pytest.raises(ValidationError):
        PicturePolicy().exif = False  # type: ignore[misc]


def test_errors_survive_a_worker(tmp_path: Path) -> None:
    with pytest.raises(PictureError) as caught:
        open_picture(tmp_path / "missing.jpg")
    assert isinstance(caught.value, DataError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is PictureError
    assert str(again) == str(caught.value)
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(PictureError, match="there is no such file"),
    ):
        pool.submit(open_picture, tmp_path / "missing.jpg").result()


def test_threads(tmp_path: Path) -> None:
    paths = []
    for index in range(8):
        path = tmp_path / f"{index}.png"
        Image.fromarray(noise(40, 60, 4 if index % 2 else 3, seed=index)).save(path)
        paths.append(path)
    expected = [array(path) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        for index, picture in enumerate(pool.map(open_picture, paths * 20)):
            assert np.array_equal(np.asarray(picture), expected[index % 8])


def test_no_global_state_changes(tmp_path: Path) -> None:
    state = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    path = animation(tmp_path / "a.gif")
    open_picture(path, PicturePolicy(first_frame=True))
    refused(path)
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == state


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files cannot be counted here")
@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tiff", "a.jpg", "a.bmp"])
def test_files_are_closed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name in ("a.jpg", "a.bmp"):
        Image.fromarray(noise(20, 20)).save(path)
    else:
        animation(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    held = [open_picture(path, PicturePolicy(first_frame=True))]
    picture_size(path, PicturePolicy(first_frame=True))
    with pytest.raises(PictureError) as caught:
        open_picture(path, PicturePolicy(max_pixels=1))
    path.write_bytes(path.read_bytes()[:-60])
    try:
        held.append(open_picture(path, PicturePolicy(first_frame=True)))
    except PictureError as error:
        caught.value.__context__ = error  # keeps its frames, and what they hold, alive
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_picture_size_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(30, 40)).save(path)
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", lambda image: pytest.fail("decoded"))
    assert picture_size(path) == (30, 40)


# ---- paths ----


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "coco" / "train").mkdir(parents=True)
    (folder / "coco" / "train" / "1.jpg").write_bytes(b"1")
    (tmp_path / "images_private").mkdir()
    (tmp_path / "images_private" / "secret.jpg").write_bytes(b"2")
    return folder


@pytest.mark.parametrize("relative", ["coco/train/1.jpg", "./coco//train/1.jpg", "coco/./train/1.jpg"])
def test_inside(root: Path, relative: str) -> None:
    assert resolve_inside(root, relative) == (root / "coco/train/1.jpg").resolve()


def test_names_that_only_look_odd(root: Path) -> None:
    for name in ("a..b.jpg", "..c.jpg", "d e.jpg", "ü.jpg", "~", "$HOME", "missing/x.jpg"):
        assert resolve_inside(root, name) == root.resolve() / name


@pytest.mark.parametrize(
    ("relative", "problem"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (".", "is the image folder itself"),
        ("/etc/passwd", "is an absolute path"),
        ("//etc/passwd", "is an absolute path"),
        ("C:/x.jpg", "is an absolute path"),
        ("..", "holds `..`"),
        ("../images_private/secret.jpg", "holds `..`"),
        ("coco/../../images_private/secret.jpg", "holds `..`"),
        ("coco/../coco/train/1.jpg", "holds `..`"),
        ("..\\images_private\\secret.jpg", "holds a backslash"),
        ("\\\\server\\share\\x.jpg", "holds a backslash"),
        ("coco/train/1.jpg\0.png", "holds a NUL"),
        ("\ud800.jpg", "is not a usable path"),
    ],
)
def test_outside(root: Path, relative: str, problem: str) -> None:
    with pytest.raises(PictureError) as caught:
        resolve_inside(root, relative)
    message = str(caught.value)
    assert problem in message
    assert str(root) in message
    assert message.startswith(f"{relative}: " if relative.isprintable() and relative.strip() else ascii(relative))


def test_links(root: Path) -> None:
    outside = root.parent / "images_private"
    (root / "inside").symlink_to("coco/train")
    (root / "inside.jpg").symlink_to(root / "coco" / "train" / "1.jpg")
    (root / "out").symlink_to(outside)
    (root / "out.jpg").symlink_to(outside / "secret.jpg")
    (root / "up").symlink_to("..")
    (root / "chain").symlink_to("out")
    real = (root / "coco/train/1.jpg").resolve()
    assert resolve_inside(root, "inside/1.jpg") == real
    assert resolve_inside(root, "inside.jpg") == real
    # The user's own links are followed; a row has no other way out.
    for relative in ("out/secret.jpg", "out.jpg", "up/images_private/secret.jpg", "chain/secret.jpg"):
        assert resolve_inside(root, relative) == (outside / "secret.jpg").resolve()


def test_root_may_be_a_link_or_relative(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    real = (root / "coco/train/1.jpg").resolve()
    assert resolve_inside(link, "coco/train/1.jpg") == real
    monkeypatch.chdir(root.parent)
    assert resolve_inside(Path("images"), "coco/train/1.jpg") == real
    monkeypatch.chdir(root)
    assert resolve_inside(Path(), "coco/train/1.jpg") == real
    monkeypatch.chdir(root / "coco")  # the same relative root is another folder now
    assert resolve_inside(Path(), "train/1.jpg") == real
    assert resolve_inside(Path("/"), "etc") == Path("/etc").resolve()


def test_paths_are_quick(root: Path) -> None:
    resolve = partial(resolve_inside, root, "coco/train/1.jpg")
    start = time.perf_counter()
    for _ in range(2000):
        resolve()
    # 15 microseconds measured, so ten seconds for 665K rows; the bound leaves room for a busy machine.
    assert (time.perf_counter() - start) / 2000 < 500e-6
