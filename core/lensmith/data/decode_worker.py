"""The process behind `bounded`: decodes what it is sent, under limits that end it. No torch, no numpy.

A message is 4 bytes of length, JSON of that length, and the bytes that the JSON announces. It ends with its input.
"""

from __future__ import annotations

import io
import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from lensmith.data.decoding import decode_stream, stream_size
from lensmith.data.pictures import open_picture
from lensmith.errors import DataError
from lensmith.spec.pictures import PicturePolicy

_BASE = 1 << 30
_PER_PIXEL = 16


def send(file: BinaryIO, head: dict[str, Any], *bodies: bytes) -> None:
    """Write one message."""
    text = json.dumps(head).encode()
    file.write(len(text).to_bytes(4) + text)
    for body in bodies:
        file.write(body)
    file.flush()


def answer(asked: dict[str, Any], files: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """What becomes of one request: sizes and pixels, or an error and the number of the image that it is about."""
    policy = PicturePolicy.model_validate(asked["policy"])
    at, total = 0, 0
    try:
        if "path" in asked:
            image = open_picture(Path(asked["path"]), policy)
            return {"sizes": [image.size]}, []
        names, images = asked["names"], []
        for at, data in enumerate(files):
            height, width = stream_size(io.BytesIO(data), names[at], policy)
            total += height * width
            if total > asked["pixels"]:
                return {"pixels": total, "at": at}, []
        for at, data in enumerate(files):
            images.append(decode_stream(io.BytesIO(data), names[at], policy))
        return {"sizes": [image.size for image in images]}, [_bytes(image) for image in images]
    except DataError as error:
        return {"error": str(error), "at": at}, []
    except MemoryError:
        return {"memory": True, "at": at}, []


def _bytes(image: Image.Image) -> bytes:
    return image.tobytes()


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, whatever C code it is in
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(4)) == 4:
        asked = json.loads(source.read(int.from_bytes(head)))
        files = [source.read(size) for size in asked.get("files", ())]
        most = _BASE + _PER_PIXEL * int(asked["policy"]["max_pixels"])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        signal.setitimer(signal.ITIMER_PROF, asked["seconds"])
        told, bodies = answer(asked, files)
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(target, told, *bodies)


if __name__ == "__main__":
    main()
