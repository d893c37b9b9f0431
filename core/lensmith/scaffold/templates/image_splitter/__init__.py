"""The record of the image splitter `example_part`. Every command imports this module: no torch here."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """What this package offers."""
    return [
        Component(
            kind=Kind.IMAGE_SPLITTER,
            name="example_part",
            spec="lensmith_example_part.spec:ExamplePartSpec",
            implementation="lensmith_example_part.splitter:ExamplePartSplitter",
            summary="upright strips side by side",
            paper="",
            example="name: example_part\nstrips: 2\n",
        )
    ]
