"""Connectors that map each token on its own: linear, MLP, identity."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl
from lensmith_plugins.connectors.specs import IdentitySpec, LinearSpec, MlpSpec

__all__ = ["IdentitySpec", "LinearSpec", "MlpSpec", "api_version", "lensmith_components"]

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """The connectors of this package."""
    return [
        Component(
            kind=Kind.CONNECTOR,
            name="linear",
            spec=LinearSpec,
            implementation="lensmith_plugins.connectors.linear:LinearConnector",
            summary="one linear layer for each token (LLaVA)",
        ),
        Component(
            kind=Kind.CONNECTOR,
            name="mlp",
            spec=MlpSpec,
            implementation="lensmith_plugins.connectors.mlp:MlpConnector",
            summary="a multi-layer perceptron for each token (LLaVA-1.5)",
        ),
        Component(
            kind=Kind.CONNECTOR,
            name="identity",
            spec=IdentitySpec,
            implementation="lensmith_plugins.connectors.identity:IdentityConnector",
            summary="the encoder's features as they are, where the widths are equal",
        ),
    ]
