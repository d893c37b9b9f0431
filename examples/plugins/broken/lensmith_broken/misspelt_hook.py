"""Forgot a letter of the hook's name."""

import lensmith
from lensmith import Component

api_version = 1


@lensmith.hookimpl
def lensmith_component() -> list[Component]:
    return []
