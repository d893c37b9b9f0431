"""Images of strangers, decoded in another process: no file can take more than its time and memory.

Pillow's decoders run in C, where no exception and no thread can stop them; a process can be ended. Its limit is
computing time, so that a busy machine refuses nothing, and a multiple of it on the clock.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from PIL import Image

from lensmith.data.decode_worker import send
from lensmith.data.pixels import PictureError, refusal
from lensmith.interfaces.shapes import Size
from lensmith.spec.pictures import PicturePolicy

SECONDS = 8.0
"""Computing time of one request."""
_CLOCK = 4
"""Times as much on the clock."""
_LOOK = 0.1


class TooManyPixels(Exception):
    """Images that are too large together.

    Args:
        pixels: of the images up to `at`.
        at: number of the first that is too many.
    """

    def __init__(self, pixels: int, at: int) -> None:
        super().__init__(pixels, at)
        self.pixels, self.at = pixels, at


class Abandoned(Exception):
    """Nobody wants the images any more."""


class BoundedDecoder:
    """One process that decodes; used by one thread at a time. It is started when needed, again where it was ended.

    Args:
        seconds: computing time of one request.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def decode(
        self,
        files: Sequence[bytes],
        names: Sequence[str],
        policy: PicturePolicy,
        pixels: int,
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[Image.Image]:
        """RGB images, once the headers of all have been found small enough.

        Args:
            files: encoded images.
            names: what messages call them.
            policy: see `to_rgb`.
            pixels: most of all together.
            wanted: asked again and again while it takes; false ends the work.

        Raises:
            PictureError: of the first that cannot be used; its `at` attribute is the image's number.
            TooManyPixels: together.
            Abandoned: nobody wants them any more.
        """
        asked = {
            "policy": policy.model_dump(),
            "names": list(names),
            "pixels": pixels,
            "files": [len(f) for f in files],
        }
        told, read = self._ask(asked, files, names, wanted)
        if "pixels" in told:
            raise TooManyPixels(told["pixels"], told["at"])
        return [Image.frombytes("RGB", (width, height), read(3 * width * height)) for width, height in told["sizes"]]

    def size(self, path: Path, policy: PicturePolicy) -> Size:
        """(height, width) of a file, after decoding all of it.

        Raises:
            PictureError: it cannot be used, or takes too long.
        """
        told, _ = self._ask({"policy": policy.model_dump(), "path": str(path)}, (), (str(path),), lambda: True)
        width, height = told["sizes"][0]
        return height, width

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            process.wait()

    def _ask(
        self, asked: dict[str, Any], files: Sequence[bytes], names: Sequence[str], wanted: Callable[[], bool]
    ) -> tuple[dict[str, Any], Callable[[int], bytes]]:
        until = time.monotonic() + self.seconds * _CLOCK
        process = self._started()
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def read(size: int) -> bytes:
            return self._read(stdout, size, until, wanted, names)

        try:
            send(stdin, {**asked, "seconds": self.seconds}, *files)  # type: ignore[arg-type]
        except OSError:
            raise self._ended(names) from None
        told = json.loads(read(int.from_bytes(read(4))))
        if "error" in told:
            error = PictureError(told["error"])
            error.at = told["at"]  # type: ignore[attr-defined]
            raise error
        if "memory" in told:
            raise self._refused(names[told["at"]], told["at"], "needs more memory to decode than it may have")
        return told, read

    def _read(
        self, pipe: IO[bytes], size: int, until: float, wanted: Callable[[], bool], names: Sequence[str]
    ) -> bytes:
        found = bytearray()
        while len(found) < size:
            ready, _, _ = select.select([pipe], [], [], _LOOK)
            if ready:
                piece = os.read(pipe.fileno(), min(size - len(found), 1 << 20))
                if not piece:
                    raise self._ended(names)
                found += piece
            elif not wanted():
                self.close()
                raise Abandoned
            elif time.monotonic() > until:
                self.close()
                raise self._slow(names)
        return bytes(found)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-m", "lensmith.data.decode_worker"]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the parent's
            )
            atexit.register(self.close)
        return self._process

    def _ended(self, names: Sequence[str]) -> PictureError:
        self.close()
        return self._slow(names)

    def _slow(self, names: Sequence[str]) -> PictureError:
        name = names[0] if len(names) == 1 else f"{names[0]} or one behind it"
        return self._refused(name, 0, f"takes more than {self.seconds:g} seconds of computing to decode")

    def _refused(self, name: str, at: int, problem: str) -> PictureError:
        error = refusal(name, problem, "save it again as PNG or JPEG, or scale it down")
        error.at = at  # type: ignore[attr-defined]
        return error


_own = threading.local()


def bounded_size(path: Path, policy: PicturePolicy) -> Size:
    """`BoundedDecoder.size` by a process of this thread's own."""
    decoder = getattr(_own, "decoder", None)
    if decoder is None or _own.process != os.getpid():  # a fork does not share its parent's
        decoder = _own.decoder = BoundedDecoder()
        _own.process = os.getpid()
    found: Size = decoder.size(path, policy)
    return found
