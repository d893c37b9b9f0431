"""Which pictures of a stage have features: what the data workers ask instead of decoding a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lensmith.data.pictures import PictureError
from lensmith.errors import TrainingError
from lensmith.features.keys import picture_key
from lensmith.features.store import Location, Store
from lensmith.features.table import Table
from lensmith.interfaces.shapes import Size


@dataclass
class KnownPictures:
    """Features by image folder and name, as the files were when the stage began.

    Args:
        store: where they are.
        table: from `picture_key` to (shard, first view, views, height, width).
        unusable: why a picture cannot be used, by its key.
        together: the encoder's weights are spread over ranks (ZeRO-3), so that all of them run it or none.
    """

    store: Store
    table: Table
    unusable: Mapping[bytes, str] = field(default_factory=dict)
    together: bool = False

    def find(self, root: Path, name: str) -> tuple[Tensor, Size] | None:
        """Features (V, N, W) of a picture and its (height, width); None where it must be encoded, also where what is
        stored is damaged.

        The file is not opened.

        Raises:
            PictureError: it could not be used when the stage began.
            TrainingError: damaged features, where the encoder cannot run on one rank alone.
        """
        key = picture_key(root, name)
        if key in self.unusable:
            raise PictureError(self.unusable[key])
        found = self.table.find(key)
        if found is None:
            return None
        shard, first, views, height, width = found
        features = self.store.read(Location(shard, first, views))
        if features is None and self.together:
            raise TrainingError(
                f"features of {root / name} were damaged in {self.store.folder} while the stage ran, and under ZeRO-3"
                " no rank can encode alone; go on with --resume, which encodes them again"
            )
        return None if features is None else (features, (height, width))
