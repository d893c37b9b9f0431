"""The record of the conversation `example_part`. Every command imports this module: no torch here."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """What this package offers."""
    return [
        Component(
            kind=Kind.CONVERSATION,
            name="example_part",
            spec="lensmith_example_part.spec:ExamplePartSpec",
            implementation="lensmith_example_part.conversation:ExamplePartConversation",
            summary="a name before each message",
            paper="",
            example="name: example_part\nsystem: Answer in one word.\n",
        )
    ]
