"""One run at a time in a folder: a second one would delete what the first is writing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lensmith.errors import TrainingError
from lensmith.files import lock
from lensmith.training import distributed


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """While this run writes its folder, no other does; where the file system has no locks, nobody is kept out.

    All ranks call it together. A folder that was made for it and stays empty is deleted again.

    Raises:
        TrainingError: another run writes there, or nobody can.
    """
    handle: int | None = None
    made, failure = False, ""
    if distributed.rank() == 0:
        try:
            made = not output.exists()
            output.mkdir(parents=True, exist_ok=True)
            handle = os.open(output, os.O_RDONLY)
            if not lock(handle):
                failure = f"another process trains into {output}; wait for it, stop it, or choose another --output"
        except OSError as error:
            failure = f"{output} cannot be written ({error.strerror}); choose another --output"
    try:
        if told := distributed.from_first(failure):
            raise TrainingError(told)
        yield
    finally:
        if handle is not None:
            os.close(handle)
        if made:
            with suppress(OSError):
                output.rmdir()
