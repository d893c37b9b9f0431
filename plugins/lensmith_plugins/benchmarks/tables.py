"""Tables as pandas reads them: words like `None` and `NA` are empty cells, and scorers depend on that."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith import DataError, LensmithError
from lensmith.io.json import open_regular

if TYPE_CHECKING:
    import pandas

_LARGEST = 1 << 30
_HEAD = 1 << 16
_HINT = "pip install 'lensmith[eval]'"


def read_table(path: Path, **options: Any) -> pandas.DataFrame:
    """A table: a workbook (`.xlsx`), commas (`.csv`), else tabs.

    Args:
        path: the file.
        options: of pandas' reader.

    Raises:
        DataError: it cannot be read as one.
        LensmithError: pandas, or what it reads workbooks with, is not installed.
    """
    suffix = path.suffix.lower()
    open_regular(path).close()
    try:
        import pandas

        if suffix == ".xlsx":
            _check_workbook(path)
            return pandas.read_excel(path, engine="openpyxl", **options)
        return pandas.read_csv(path, sep="," if suffix == ".csv" else "\t", **options)
    except ImportError as error:
        raise LensmithError(f"{path} is read with pandas and openpyxl: {_HINT} ({error})") from error
    except (LensmithError, MemoryError):
        raise
    # The reader of workbooks answers damage with errors of any kind: of archives, of XML, of types and of names.
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a table: {said:.200}; save it again or write it as .tsv") from error


def _check_workbook(path: Path) -> None:
    """Refuse a workbook before its XML is read.

    Raises:
        DataError: it unpacks to more than `_LARGEST` bytes, or declares entities, which no workbook does.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > _LARGEST:
            raise DataError(f"{path}: the workbook unpacks to {size:,} bytes, more than the {_LARGEST:,} that are read")
        for member in archive.infolist():
            with archive.open(member) as file:
                head = file.read(_HEAD).replace(b"\0", b"")  # in UTF-16 every other byte
            if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
                raise DataError(f"{path}: {member.filename} in it declares entities, which no workbook does; not read")


def write_workbook(table: pandas.DataFrame, path: Path) -> None:
    """Write a workbook without the table's index.

    Raises:
        LensmithError: what pandas writes workbooks with is not installed.
    """
    try:
        table.to_excel(path, index=False, engine="openpyxl")
    except ImportError as error:
        raise LensmithError(f"{path} is written with openpyxl: {_HINT} ({error})") from error
