"""A plugin whose module imports torch."""

from __future__ import annotations

import torch
from wrong_parts import FineConnectorSpec

from lensmith import Component, Kind, hookimpl

api_version = 1
ONE = torch.ones(1)


@hookimpl
def lensmith_components() -> list[Component]:
    return [Component(Kind.CONNECTOR, "heavy", FineConnectorSpec, "wrong_modules:FineConnector", "a heavy part")]
