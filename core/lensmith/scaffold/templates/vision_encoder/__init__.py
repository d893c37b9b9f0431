"""The record of the vision encoder `example_part`. Every command imports this module: no torch here."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """What this package offers."""
    return [
        Component(
            kind=Kind.VISION_ENCODER,
            name="example_part",
            spec="lensmith_example_part.spec:ExamplePartSpec",
            implementation="lensmith_example_part.encoder:ExamplePartEncoder",
            summary="one token for each patch",
            paper="",
            example="name: example_part\ncheckpoint: weights.safetensors\n",
        )
    ]
