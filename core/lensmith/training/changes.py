"""Files of rows and images that change while a stage trains on them: noticed, told and written into the manifest.

What was trained is then not what the manifest's hashes say, and nobody can tell which rows were read before and which
after. Training goes on: whoever needs the run to be repeatable runs it again.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from lensmith.data.reader import RowReader
from lensmith.data.row_images import is_inline
from lensmith.errors import DataError

_NAMED = 5
"""Images that are named; the others are counted."""


class SourceWatch:
    """What the sources of a stage were when it began, and what has changed since.

    Args:
        reader: with the rows that the stage trains on.
    """

    def __init__(self, reader: RowReader) -> None:
        self._reader = reader
        self._files = {source.rows.path: _state(source.rows.path) for source in reader.mixture.sources}
        # By the clock that file times are of: that of a file system elsewhere may be another.
        self._began = time.time_ns()
        self._epoch = 0
        self._looked = -1
        self._rows: dict[Path, int] = {}
        self._images: dict[str, int] = {}

    def after_step(self, step: int, size: int) -> None:
        """Look at the end of each epoch.

        Args:
            step: optimiser steps done.
            size: rows of each.
        """
        epoch = step * size // max(1, self._reader.mixture.epoch_size())
        if epoch > self._epoch:
            self._epoch = epoch
            self.look(step)

    def look(self, step: int) -> None:
        """Look at every file and tell what changed, once."""
        if step == self._looked:
            return
        self._looked = step
        fresh = [path for path, state in self._files.items() if path not in self._rows and _state(path) != state]
        self._rows |= dict.fromkeys(fresh, step)
        images = [name for name in self._changed_images() if name not in self._images]
        self._images |= dict.fromkeys(images, step)
        for path in fresh:
            print(f"warning: {path} changed while this stage trained on it; {_SAID}", file=sys.stderr)
        if images:
            more = f" and {len(images) - 1:,} more pictures" if len(images) > 1 else ""
            print(f"warning: {images[0]}{more} changed while this stage trained; {_SAID}", file=sys.stderr)

    def record(self) -> dict[str, Any]:
        """An entry of the manifest; empty where nothing changed."""
        changed: dict[str, Any] = {}
        if self._rows:
            changed["rows"] = [{"path": str(path), "noticed_at_step": step} for path, step in self._rows.items()]
        if self._images:
            named = [{"path": name, "noticed_at_step": self._images[name]} for name in list(self._images)[:_NAMED]]
            changed["images"] = {"count": len(self._images), "first": named}
        return {"changed_while_training": changed} if changed else {}

    def _changed_images(self) -> list[str]:
        found: dict[str, None] = {}
        seen: set[str] = set()
        mixture = self._reader.mixture
        for index in range(len(mixture)):
            root = mixture.locate(index)[0].root
            try:
                names = self._reader.row(index).images
            except DataError:  # of a file that changed
                continue
            for name in names:
                path = os.path.join(root, name)  # noqa: PTH118 - Path is too slow for every image
                if path in seen or is_inline(name):
                    continue
                seen.add(path)
                try:
                    changed = os.stat(path).st_ctime_ns > self._began  # noqa: PTH116
                except OSError:
                    changed = True  # it was there
                if changed:
                    found[path] = None
        return list(found)


_SAID = "what was trained is not all of one content, and the manifest says so"


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
