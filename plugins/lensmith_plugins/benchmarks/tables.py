"""Tables as pandas reads them: words like `None` and `NA` are empty cells, and scorers depend on that."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith import DataError, LensmithError

if TYPE_CHECKING:
    import pandas

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
    try:
        import pandas

        if path.suffix == ".xlsx":
            return pandas.read_excel(path, engine="openpyxl", **options)
        return pandas.read_csv(path, sep="," if path.suffix == ".csv" else "\t", **options)
    except ImportError as error:
        raise LensmithError(f"{path} is read with pandas and openpyxl: {_HINT} ({error})") from error
    # A workbook that is no archive, or an archive without a workbook's files.
    except (OSError, ValueError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error


def write_workbook(table: pandas.DataFrame, path: Path) -> None:
    """Write a workbook without the table's index.

    Raises:
        LensmithError: what pandas writes workbooks with is not installed.
    """
    try:
        table.to_excel(path, index=False, engine="openpyxl")
    except ImportError as error:
        raise LensmithError(f"{path} is written with openpyxl: {_HINT} ({error})") from error
