"""The record of the language model `example_part`. Every command imports this module: no torch here."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """What this package offers."""
    return [
        Component(
            kind=Kind.LANGUAGE_MODEL,
            name="example_part",
            spec="lensmith_example_part.spec:ExamplePartSpec",
            implementation="lensmith_example_part.model:ExamplePartModel",
            summary="a causal language model of transformers",
            paper="",
            example="name: example_part\ncheckpoint: owner/name\n",
        )
    ]
