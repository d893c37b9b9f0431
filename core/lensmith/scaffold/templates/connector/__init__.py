"""The record of the connector `example_part`. Every command imports this module: no torch here."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """What this package offers."""
    return [
        Component(
            kind=Kind.CONNECTOR,
            name="example_part",
            spec="lensmith_example_part.spec:ExamplePartSpec",
            implementation="lensmith_example_part.connector:ExamplePartConnector",
            summary="linear layers for each token",
            paper="",
            example="name: example_part\ndepth: 2\n",
        )
    ]
