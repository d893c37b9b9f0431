"""Offers a connector under the name of one of Lensmith's own."""

import lensmith
from lensmith import Component, Kind

api_version = 1


class OtherIdentitySpec(lensmith.ConnectorSpec):
    """Not the `identity` that everybody knows."""


@lensmith.hookimpl
def lensmith_components() -> list[Component]:
    return [Component(Kind.CONNECTOR, "identity", OtherIdentitySpec, "lensmith_broken:Nothing", "another identity")]
