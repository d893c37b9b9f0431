"""Tuners: what of a model trains. This module is light; implementations are imported when they are used."""

from __future__ import annotations

from collections.abc import Iterable

from lensmith import Component, Kind, hookimpl
from lensmith_plugins.tuners.specs import FrozenSpec, FullSpec, LoraSpec

api_version = 1


@hookimpl
def lensmith_components() -> Iterable[Component]:
    """The tuners of this package."""
    return [
        Component(
            kind=Kind.TUNER,
            name="frozen",
            spec=FrozenSpec,
            implementation="lensmith_plugins.tuners.frozen:FrozenTuner",
            summary="Train the connector alone (LLaVA's stage 1)",
        ),
        Component(
            kind=Kind.TUNER,
            name="full",
            spec=FullSpec,
            implementation="lensmith_plugins.tuners.full:FullTuner",
            summary="Train whole parts, each with its own learning rate (LLaVA's stage 2)",
        ),
        Component(
            kind=Kind.TUNER,
            name="lora",
            spec=LoraSpec,
            implementation="lensmith_plugins.tuners.lora:LoraTuner",
            summary="Train low-rank adapters on the language model, and the connector in full",
        ),
    ]
