"""The record of the exporter `example_part`. Every command imports this module: no torch here."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """What this package offers."""
    return [
        Component(
            kind=Kind.EXPORTER,
            name="example_part",
            spec="lensmith_example_part.spec:ExamplePartSpec",
            implementation="lensmith_example_part.exporter:ExamplePartExporter",
            summary="the connector alone, and the names of the parts that it joins",
            paper="",
            example="name: example_part\n",
        )
    ]
