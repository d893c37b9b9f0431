"""Recipes: spec files of the published models, to be named in `extends:`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lensmith import hookimpl

api_version = 1


@hookimpl
def lensmith_recipes() -> Iterable[Path]:
    """The folder that this file is in."""
    return [Path(__file__).parent]
