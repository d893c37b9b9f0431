"""What a file is by its first bytes, where something else was expected: the name and what to do with it."""

from __future__ import annotations

from typing import NamedTuple

HEAD = 512
"""Bytes of the beginning that are enough; a tar says what it is behind the first 257."""


class Kind(NamedTuple):
    """A kind of file.

    Args:
        name: with its article.
        cure: what makes of it a file of text.
    """

    name: str
    cure: str


_UNPACK = "unpack it and name the file in it"
_FETCH = "fetch the file itself again"
_UTF8 = "save it as UTF-8"
_BEGINNINGS = {
    b"\x1f\x8b": Kind("a gzip file", "unpack it first (gunzip)"),
    b"PK\x03\x04": Kind("a ZIP archive", _UNPACK),
    b"PK\x05\x06": Kind("an empty ZIP archive", _UNPACK),
    b"BZh": Kind("a bzip2 file", "unpack it first (bunzip2)"),
    b"\xfd7zXZ\0": Kind("an xz file", "unpack it first (unxz)"),
    b"\x28\xb5\x2f\xfd": Kind("a Zstandard file", "unpack it first (unzstd)"),
    b"7z\xbc\xaf\x27\x1c": Kind("a 7-Zip archive", _UNPACK),
    b"Rar!": Kind("a RAR archive", _UNPACK),
    b"PAR1": Kind("a Parquet file", "write its rows as JSON lines (pandas.read_parquet(…).to_json(…, lines=True))"),
    b"ARROW1": Kind("an Arrow file", "write its rows as JSON lines (datasets: Dataset.from_file(…).to_json(…))"),
    b"\x89HDF\r\n\x1a\n": Kind("an HDF5 file", "write its rows as JSON lines"),
    b"SQLite format 3\0": Kind("a SQLite database", "write its rows as JSON lines"),
    b"\x93NUMPY": Kind("a NumPy array", "write it as JSON"),
    b"\x80\x02": Kind("a Python pickle", "write it as JSON; a pickle is never opened"),
    b"\x80\x03": Kind("a Python pickle", "write it as JSON; a pickle is never opened"),
    b"\x80\x04": Kind("a Python pickle", "write it as JSON; a pickle is never opened"),
    b"\x80\x05": Kind("a Python pickle", "write it as JSON; a pickle is never opened"),
    b"GGUF": Kind("a GGUF model", "name the file that is meant"),
    b"%PDF": Kind("a PDF", "name the file that is meant"),
    b"\x89PNG": Kind("a PNG image", "name the file that is meant"),
    b"\xff\xd8\xff": Kind("a JPEG image", "name the file that is meant"),
    b"GIF8": Kind("a GIF image", "name the file that is meant"),
    b"\x7fELF": Kind("a program", "name the file that is meant"),
    b"\xff\xfe\0\0": Kind("UTF-32 text", f"{_UTF8} (iconv -f UTF-32 -t UTF-8)"),
    b"\0\0\xfe\xff": Kind("UTF-32 text", f"{_UTF8} (iconv -f UTF-32 -t UTF-8)"),
    b"\xff\xfe": Kind("UTF-16 text", f"{_UTF8} (iconv -f UTF-16 -t UTF-8)"),
    b"\xfe\xff": Kind("UTF-16 text", f"{_UTF8} (iconv -f UTF-16 -t UTF-8)"),
    b"version https://git-lfs": Kind("a Git LFS pointer, not the file that it stands for", "run `git lfs pull`"),
}
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")


def kind_of(head: bytes) -> Kind | None:
    """The kind of a file that is not plain text, or text that is a page or a pointer; None for any other.

    Args:
        head: the first `HEAD` bytes.
    """
    for beginning, kind in _BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    if head[257:262] == b"ustar":
        return Kind("a tar archive", f"{_UNPACK}; of a WebDataset, make JSON lines and a folder of images")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return Kind("a web page", f"{_FETCH}; what is here is what a server answered instead")
    if head and not head.strip(b"\0"):
        return Kind("nothing but zero bytes", _FETCH)
    if head[:1] not in (b"", b"\0") and head[1:2] == b"\0" and head[3:4] == b"\0":
        return Kind("UTF-16 text without its mark", f"{_UTF8} (iconv -f UTF-16LE -t UTF-8)")
    if head[:1] == b"\0" and head[1:2] not in (b"", b"\0") and head[2:3] == b"\0":
        return Kind("UTF-16 text without its mark", f"{_UTF8} (iconv -f UTF-16BE -t UTF-8)")
    if b"\0" in head:
        return Kind("binary data", "name a file of text")
    return None
