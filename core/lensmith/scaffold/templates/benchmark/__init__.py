"""The record of the benchmark `example_part`. Every command imports this module: no torch here."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """What this package offers."""
    return [
        Component(
            kind=Kind.BENCHMARK,
            name="example_part",
            spec="lensmith_example_part.spec:ExamplePartSpec",
            implementation="lensmith_example_part.benchmark:ExamplePartBenchmark",
            summary="questions with one right answer each",
            paper="",
            example="name: example_part\nsuffix: Answer in one word.\n",
        )
    ]
