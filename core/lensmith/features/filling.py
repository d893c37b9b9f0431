"""Before a stage begins: encode the pictures that it will show and that have no features yet.

Everything is written before the first step, so a step reads the same features whenever a run is killed and resumed.
Views are encoded in groups of a fixed size, so a picture's features do not depend on how many others were missing.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset

from lensmith import files
from lensmith.data.pictures import picture_size, resolve_inside
from lensmith.data.row_images import is_inline
from lensmith.errors import DataError, LensmithError, TrainingError
from lensmith.features import folders, keys, store
from lensmith.features.lookup import KnownPictures
from lensmith.features.refusals import ENCODER_TRAINS
from lensmith.features.store import KnownFile, Location, Store, Writer
from lensmith.features.table import Table, key_array
from lensmith.io.terminal import console
from lensmith.training import distributed
from lensmith.training.ahead import ahead
from lensmith.training.hardware import accelerator, data_workers

if TYPE_CHECKING:
    from lensmith.data.reader import RowReader
    from lensmith.data.sample import PicturePipeline
    from lensmith.model import MultimodalModel
    from lensmith.spec.run import StageSpec

TOGETHER = 8
"""Views that go through the encoder at once."""
_GROUP = 4 * TOGETHER
_SETTLED = 2.0
"""Seconds after which a file that changes again surely gets another time of change."""
_VARIANTS = 100


@dataclass(frozen=True)
class Shown:
    """A picture of the stage: image folder, name, and the first row that shows it."""

    root: Path
    name: str
    row: int


def attach(
    model: MultimodalModel,
    reader: RowReader,
    rows: Iterable[int],
    stage: StageSpec,
    say: Callable[[str], None],
) -> folders.Lock:
    """Give a model's picture pipeline the features of all pictures of some rows, encoding those that are missing.

    All ranks call it together, before DeepSpeed has the model. Afterwards the pipeline hands out features instead of
    pixels, and where every rank has all of them the encoder does not run any more (`model.encodes` is False).

    Args:
        model: its vision encoder does not train.
        reader: the stage's rows.
        rows: running indices of those that will be trained on.
        stage: where the features are, how many bytes they may take, and what happens to pictures that are bad.
        say: tells the user, on rank 0.

    Returns:
        What keeps the features from being cleared; release it when the stage has ended.

    Raises:
        TrainingError: the encoder trains or its views are random; more bytes are needed than allowed.
        DataError: pictures that cannot be used, where the spec does not leave such rows out.
    """
    if any(parameter.requires_grad for parameter in model.vision_encoder.parameters()):
        raise TrainingError(f"cache: {ENCODER_TRAINS}")
    model.vision_encoder.eval()
    root = stage.cache.folder or folders.default_folder()
    home = keys.device_of(model.vision_encoder)
    model.vision_encoder.to(accelerator())
    try:
        with torch.no_grad():
            return _Filling(model, reader, stage, root, say).run(rows)
    finally:
        model.vision_encoder.to(home)


class _Filling:
    """One stage's."""

    def __init__(
        self, model: MultimodalModel, reader: RowReader, stage: StageSpec, root: Path, say: Callable[[str], None]
    ) -> None:
        self.model, self.reader, self.stage, self.root, self.say = model, reader, stage, root, say
        self.pictures: PicturePipeline = replace(model.pictures, features=None)
        self.fresh: dict[bytes, KnownFile] = {}
        self.looked_at: dict[Location, bool] = {}
        # Else a damaged record is encoded again by the rank that comes upon it.
        self.together = stage.deepspeed.zero == 3 and distributed.world() > 1

    def run(self, rows: Iterable[int]) -> folders.Lock:
        """See `attach`."""
        encoding = keys.encoding(self.model)
        folder: Path = _first(lambda: open_folder(self.root, encoding))
        lock = folders.filling_lock(folder)
        used = folders.used_lock(folder)
        if not all(_gathered(_agreed(lambda: used.take(shared=True)))):
            raise TrainingError(f"cache: {folder} is being cleared; start again")
        try:
            _first(lambda: folders.mark_used(folder))
            self.wait(lock)
            _, tokens, width = encoding.probe.shape
            self.store = Store(folder, tokens, width, encoding.probe.dtype)
            for message in self.store.damaged:
                self.say(f"  feature cache: {message}")
            shown = self.shown(rows)
            missing = [picture for picture in shown if self.place(picture) is None]
            allowed = _first(lambda: self.announce(shown, missing))
            found = _agreed(lambda: self.fill(missing[:allowed][distributed.rank() :: distributed.world()]))
            lock.release()  # only now have all ranks written
            self.store.refresh()
            self.use(shown, _gathered(found))
        except BaseException:
            lock.release()
            used.release()
            raise
        return used

    def use(self, shown: Sequence[Shown], found: Sequence[_Found]) -> None:
        """Hand out the features of what all ranks found."""
        for part in found:
            self.fresh |= part.fresh
        unusable = {key: why for part in found for key, why in part.unusable.items()}
        self.refuse(unusable)
        known = self.known(shown, {key: message for key, (_, message) in unusable.items()})
        complete = len(known.table) + len(unusable) == len(shown)
        self.model.pictures.features = known
        self.model.encodes = not all(_gathered(complete))

    def wait(self, lock: folders.Lock) -> None:
        """Until no other run fills this folder; every rank, so that none of them reads too early."""
        told = False
        while not distributed.from_first(distributed.rank() != 0 or lock.take()):
            if not told:
                self.say("  feature cache: another run is filling it; waiting")
            told = True
            time.sleep(1)
        if distributed.rank() == 0:
            store.sweep(lock.path.parent)

    def shown(self, rows: Iterable[int]) -> list[Shown]:
        """Every picture once, in the order in which the stage shows them."""
        found: dict[tuple[Path, str], Shown] = {}
        for index in dict.fromkeys(rows):
            root = self.reader.mixture.locate(index)[0].root
            for name in self.reader.row(index).images:
                if not is_inline(name):  # has no file whose change would be seen: encoded whenever it is shown
                    found.setdefault((root, name), Shown(root, name, index))
        return list(found.values())

    def place(self, picture: Shown) -> tuple[Location, tuple[int, int]] | None:
        """Where a picture's features are, and its size."""
        try:
            key = keys.file_key(picture.root, picture.name)
            known = self.store.file(key) or self.fresh.get(key)
        except (OSError, ValueError):
            return None
        if known is None:
            return None
        found = self.store.find(keys.entry_key(known.content, self.pictures.layout(*known.size)))
        if found is None or (self.together and not self.is_whole(found)):
            return None
        return found, known.size

    def is_whole(self, place: Location) -> bool:
        """Whether features are what was written; looked at once."""
        if place not in self.looked_at:
            self.looked_at[place] = self.store.read(place) is not None
        return self.looked_at[place]

    def announce(self, shown: Sequence[Shown], missing: Sequence[Shown]) -> int:
        """Say what there is and what will be written; how many of the missing ones may be.

        Raises:
            TrainingError: more than the limit, or than there is room for.
        """
        cache = self.stage.cache
        present = len(shown) - len(missing)
        needed = [self.bytes_of(picture) for picture in missing]
        if sum(needed) > cache.limit - folders.held(self.root):  # copied or moved files have features already
            needed = [0 if self.has_content(p) else size for p, size in zip(missing, needed, strict=True)]
        there = sum(place[0].views for p in shown if (place := self.place(p))) * self.store.bytes_per_view
        room = cache.limit - folders.held(self.root)
        total = np.cumsum(needed, dtype=np.int64)
        allowed = int(np.searchsorted(total, room, side="right"))
        more = int(total[-1]) if len(total) else 0
        self.say(
            f"  feature cache: {files.size(there + more)} for {len(shown):,} pictures, {present:,} there"
            f" ({self.store.folder})"
        )
        if allowed < len(missing):
            excess = (
                f"{files.size(more)} more would exceed the limit of {files.size(cache.limit)}"
                f" ({files.size(max(0, room))} left in {self.root})"
            )
            if cache.over_limit == "error":
                raise TrainingError(
                    f"cache: {excess}; raise cache.limit, free some with `lensmith cache clear`, or set"
                    " cache.over_limit: encode to encode what does not fit anew each time"
                )
            self.say(f"  feature cache: {excess}; {len(missing) - allowed:,} pictures are encoded anew each time")
        files.require_space(self.store.folder, int(total[allowed - 1]) if allowed else 0)
        return allowed

    def bytes_of(self, picture: Shown) -> int:
        """Of a picture's features, from its header; none of one that cannot be read."""
        try:
            size = picture_size(resolve_inside(picture.root, picture.name), self.pictures.policy)
        except DataError:
            return 0
        return self.pictures.layout(*size).views * self.store.bytes_per_view

    def has_content(self, picture: Shown) -> bool:
        """Whether a picture with the same bytes has features."""
        if not len(self.store):
            return False
        try:
            path = resolve_inside(picture.root, picture.name)
            layout = self.pictures.layout(*picture_size(path, self.pictures.policy))
            return self.store.find(keys.entry_key(keys.content_key(path), layout)) is not None
        except (LensmithError, OSError, ValueError):
            return False

    def fill(self, missing: Sequence[Shown]) -> _Found:
        """Encode and write."""
        from rich.progress import Progress

        found = _Found()
        screen = console()
        hidden = not screen.is_terminal or distributed.rank() != 0 or not missing
        with Writer(self.store) as writer, Progress(console=screen, disable=hidden) as progress:
            task = progress.add_task("encoding pictures", total=len(missing))
            for group in self.groups(missing, found):
                for entry, features in self.encoded(group, writer).items():
                    writer.add(entry, features)
                for prepared in group:
                    if prepared.settled:
                        writer.add_file(prepared.file, prepared.known)
                    else:
                        found.fresh[prepared.file] = prepared.known
                progress.advance(task, len(group))
        return found

    def groups(self, missing: Sequence[Shown], found: _Found) -> Iterator[list[_Prepared]]:
        """Prepared pictures, so many together that little is filled up."""
        group: list[_Prepared] = []
        views = 0
        dataset = _Missing(self.pictures, self.store, missing)
        for number, prepared in enumerate(_loader(dataset, data_workers(self.stage))):
            picture = missing[number]
            if isinstance(prepared, str):
                found.unusable[keys.picture_key(picture.root, picture.name)] = (picture.row, prepared)
                continue
            group.append(prepared)
            views += len(prepared.pixels) if prepared.pixels is not None else 0
            if views >= _GROUP:
                yield group
                group, views = [], 0
        if group:
            yield group

    def encoded(self, group: Sequence[_Prepared], writer: Writer) -> dict[bytes, Tensor]:
        """Features of the pictures of a group that have none yet, by their entry."""
        new = {p.entry: p.pixels for p in group if p.pixels is not None and p.entry not in writer}
        if not new:
            return {}
        pixels = torch.cat(list(new.values()))
        views = len(pixels)
        pixels = torch.cat([pixels, pixels.new_zeros(-views % TOGETHER, *pixels.shape[1:])])
        device = keys.device_of(self.model.vision_encoder)
        features = torch.cat([self.model.encode(part.to(device)).cpu() for part in torch.split(pixels, TOGETHER)])
        return dict(zip(new, torch.split(features[:views], [len(p) for p in new.values()]), strict=True))

    def refuse(self, unusable: dict[bytes, tuple[int, str]]) -> None:
        """Stop where bad rows do."""
        if not unusable or self.stage.data.bad_rows == "skip":
            return
        told = [f"{self.reader.place(row)}: {message}" for row, message in sorted(unusable.values())[:10]]
        more = f"\n  … and {len(unusable) - 10} more" if len(unusable) > 10 else ""
        raise DataError(
            f"{len(unusable)} pictures cannot be used (set data.bad_rows: skip to leave their rows out):\n  "
            + "\n  ".join(told)
            + more
        )

    def known(self, shown: Sequence[Shown], unusable: dict[bytes, str]) -> KnownPictures:
        """The table that the data workers ask."""
        places = [(picture, place) for picture in shown if (place := self.place(picture)) is not None]
        found = [keys.picture_key(picture.root, picture.name) for picture, _ in places]
        numbers = [[*location, *size] for _, (location, size) in places]
        table = Table(key_array(found), np.array(numbers, np.int64).reshape(-1, 5))
        return KnownPictures(self.store, table, unusable, self.together)


def open_folder(root: Path, encoding: keys.Encoding) -> Path:
    """The folder of an encoding, made where there is none.

    A folder whose probe picture came out otherwise is of a library that computed otherwise; it is passed over.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tolerance = {torch.float32: 1e-4, torch.float64: 1e-4}.get(encoding.probe.dtype, 3e-2)
    for variant in range(_VARIANTS):
        folder = root / (encoding.digest + (f"-{variant}" if variant else ""))
        probe = folder / "probe.safetensors"
        if not probe.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            store.write(probe, {"features": encoding.probe.contiguous()})
        about = folder / folders.ABOUT
        if not about.is_file():
            text = json.dumps(encoding.about, indent=2, ensure_ascii=False) + "\n"
            temporary = about.with_name(f"{store.TEMPORARY}{uuid.uuid4().hex}-{about.name}")
            temporary.write_text(text, encoding="utf-8")
            temporary.rename(about)
        try:
            stored = _finite(load_file(probe)["features"])
        except (SafetensorError, KeyError) as error:
            raise OSError(f"{probe} is damaged: {error}") from error
        now = _finite(encoding.probe)
        if stored.shape == now.shape and (stored - now).norm() <= tolerance * now.norm():
            return folder
    raise OSError(f"{root} holds {_VARIANTS} variants of one encoder; clear them with `lensmith cache clear`")


def _finite(features: Tensor) -> Tensor:
    return torch.nan_to_num(features.double(), 0.0, 0.0, 0.0)


@dataclass
class _Prepared:
    """A picture that is ready to be encoded.

    Args:
        pixels: (V, 3, H, W); None where its bytes have features already.
        entry: key of its features.
        file, known: key of its file, and what that holds.
        settled: whether the file is old enough that another change will show in its key. What is said of one that is
            not holds for this run alone.
    """

    pixels: Tensor | None
    entry: bytes
    file: bytes
    known: KnownFile
    settled: bool


@dataclass
class _Found:
    """What a rank found out: row and reason by the key of pictures that cannot be used; files not settled yet."""

    unusable: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    fresh: dict[bytes, KnownFile] = field(default_factory=dict)


class _Missing(Dataset["_Prepared | str"]):
    """The pictures to encode; a message in the place of one that cannot be read."""

    def __init__(self, pictures: PicturePipeline, store: Store, missing: Sequence[Shown]) -> None:
        self.pictures, self.store, self.missing = pictures, store, missing

    def __len__(self) -> int:
        return len(self.missing)

    def __getitem__(self, number: int) -> _Prepared | str:
        root, name = self.missing[number].root, self.missing[number].name
        try:
            path = resolve_inside(root, name)
            before = keys.file_key(root, name)
            content = keys.content_key(path)
            size = picture_size(path, self.pictures.policy)
            entry = keys.entry_key(content, self.pictures.layout(*size))
            pixels = None if self.store.find(entry) else self.pictures.open(root, name).pixels
            same = before == keys.file_key(root, name)
            status = path.stat()
        except (LensmithError, OSError, ValueError) as error:
            return str(error)
        if not same:
            return f"{path}: was changed while it was read; start again when nobody writes it"
        settled = time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED
        return _Prepared(pixels, entry, before, KnownFile(content, size), settled)


def _loader(missing: _Missing, workers: int) -> Iterable[Any]:
    workers = min(workers, len(missing))
    if not workers:
        return (missing[number] for number in range(len(missing)))
    return ahead(missing, range(len(missing)), workers)


def _agreed(action: Callable[[], Any]) -> Any:
    """What this rank has of an action; a failure of one stops every rank."""
    value, failure = None, ""
    try:
        value = action()
    except LensmithError as error:
        failure = str(error)
    except OSError as error:
        failure = f"cache: its folder cannot be used ({error}); name another with cache.folder"
    if failures := distributed.all_agree(failure):
        raise TrainingError("; ".join(dict.fromkeys(failures)))
    return value


def _first(action: Callable[[], Any]) -> Any:
    """What rank 0 has of an action, on every rank; its failure stops all."""
    return distributed.from_first(_agreed(lambda: action() if distributed.rank() == 0 else None))


def _gathered(value: Any) -> list[Any]:
    """Every rank's value."""
    if distributed.world() == 1:
        return [value]
    values: list[Any] = [None] * distributed.world()
    dist.all_gather_object(values, value)
    return values
