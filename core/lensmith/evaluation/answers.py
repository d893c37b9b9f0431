"""The answers of a run on disk: appended as they come, read again by whoever goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lensmith.errors import LensmithError
from lensmith.files import lock, write_json, writing
from lensmith.interfaces.benchmark import Item
from lensmith.io.json import parse_json, read_object

_FOLDER = "answers"
_RUN = "run.json"
_TOLD = "told"


def fingerprint(items: Sequence[Item]) -> str:
    """Hash of all questions in their order, pictures by name."""
    digest = hashlib.sha256()
    for item in items:
        images = [image.name if isinstance(image, Path) else hashlib.sha256(image).hexdigest() for image in item.images]
        told: list[Any] = [item.question_id, item.prompt, images, item.choices]
        told += [dict(item.candidates), item.per_token] if item.candidates else []
        digest.update(json.dumps(told).encode())
    return digest.hexdigest()


def claim(folder: Path, identity: Mapping[str, Any], told: Mapping[str, Any] | None = None) -> None:
    """Make a folder the place of one run, or find that it is.

    Args:
        folder: of one benchmark.
        identity: what the answers depend on.
        told: what the identity comes from, to name what differs: `options` of the benchmark.

    Raises:
        LensmithError: it holds answers of another run; says what differs.
    """
    path = folder / _RUN
    empty = path.exists() and not path.stat().st_size and not (folder / _FOLDER).exists()  # a full disk left that
    if empty or not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {**identity, _TOLD: dict(told or {})})
        return
    try:
        before = read_object(path)
    except ValueError as error:
        raise LensmithError(f"{path} is no description of a run ({error}); choose another --output") from error
    now = json.loads(json.dumps(dict(identity)))
    changed = sorted(key for key in {**before, **now} if key != _TOLD and before.get(key) != now.get(key))
    if changed:
        source = before.get(_TOLD), json.loads(json.dumps(dict(told or {})))
        said = "; ".join(_difference(key, before.get(key), now.get(key), *source) for key in changed)
        raise LensmithError(f"{folder} holds answers of another run: {said}. Choose another --output, or delete it")


def _difference(key: str, before: Any, now: Any, told_before: Any, told_now: Mapping[str, Any]) -> str:
    """What differs, in words: never two hashes."""
    if key == "questions_sha256":
        old = told_before.get("options") if isinstance(told_before, dict) else None
        options = told_now.get("options", {})
        names = [name for name in options if isinstance(old, dict) and old.get(name) != options[name]]
        if names and isinstance(old, dict):
            return "; ".join(
                f"option {n} was {old.get(n)!r} and is {options[n]!r}, which changes what is asked" for n in names
            )
        return "its questions were others (their words, their order or their pictures)"
    if key.endswith("_sha256"):
        return f"its {key.removesuffix('_sha256')} was another: another artifact, or the same one trained again"
    return f"{key} was {before!r} and is {now!r}"


class Answers:
    """Answers of all shards of a run, and the file of one of them.

    Args:
        folder: of one benchmark.
        shard: number and count, for the file to append to.

    Raises:
        LensmithError: another process writes this shard.
    """

    def __init__(self, folder: Path, shard: tuple[int, int]) -> None:
        self.folder = folder / _FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"{shard[0]}-of-{shard[1]}.jsonl"
        self._file = self._path.open("a+b")
        if not lock(self._file.fileno()):
            self._file.close()
            raise LensmithError(f"{self._path}: another process is answering this shard")
        self._drop_half_line()

    def __enter__(self) -> Answers:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the shard's file."""
        self._file.close()

    def write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Append answers, each with its `item` number, and hand them to the system."""
        with writing(self._path):
            self._file.write("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode())
            self._file.flush()

    def all(self) -> dict[int, dict[str, Any]]:
        """What all shards have, by item number."""
        return read_answers(self.folder.parent)

    def _drop_half_line(self) -> None:
        """Cut off what a kill left of a line."""
        self._file.seek(0)
        data = self._file.read()
        self._file.truncate(data.rfind(b"\n") + 1)
        self._file.seek(0, 2)


def read_answers(folder: Path) -> dict[int, dict[str, Any]]:
    """Answers of all shards by item number; half a line at an end is another process's work in progress.

    Raises:
        LensmithError: a line that is no answer, by file and line.
    """
    found: dict[int, dict[str, Any]] = {}
    for path in sorted((folder / _FOLDER).glob("*.jsonl")):
        data = path.read_bytes()
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
            try:
                entry = parse_json(line, str(path), line=number)
                found[int(entry["item"])] = entry
            except (ValueError, KeyError, TypeError) as error:
                raise LensmithError(f"{path}:{number}: no answer ({error!r}); delete that file to ask again") from error
    return found
