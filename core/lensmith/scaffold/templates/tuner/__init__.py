"""The record of the tuner `example_part`. Every command imports this module: no torch here."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """What this package offers."""
    return [
        Component(
            kind=Kind.TUNER,
            name="example_part",
            spec="lensmith_example_part.spec:ExamplePartSpec",
            implementation="lensmith_example_part.tuner:ExamplePartTuner",
            summary="train the connector and the language model's norms",
            paper="",
            example="name: example_part\nconnector_lr: 1e-3\n",
        )
    ]
