"""How picture files are read: the `pictures:` section of a stage's data. No PIL here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from lensmith.interfaces.bounds import at_most
from lensmith_registry import Described


class PicturePolicy(Described):
    """Which pictures are taken and how they become RGB.

    `alpha: drop` with `exif: false` gives what the original LLaVA saw, `Image.open(path).convert("RGB")`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: Annotated[int, at_most(2**40, "no memory holds as many")] = Field(default=100_000_000, gt=0)
    """Most pixels (width times height) of a picture, read from its header before anything is decoded."""
    max_aspect: float = Field(default=200.0, ge=1.0)
    """Most times that the longer side may hold the shorter one."""
    alpha: Literal["white", "drop"] = "white"
    """Transparency: `white` lays the picture over white, `drop` shows the colours stored below it."""
    exif: bool = True
    """Turn the picture as its EXIF orientation says (TIFF's own orientation tag is always followed)."""
    first_frame: bool = False
    """Take the first frame of an animation or of a file with several pages, instead of refusing it."""
