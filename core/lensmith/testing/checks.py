"""The checks by name: what each is about and where its code is. Nothing is imported until a check runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lensmith_registry import Kind

RANKS = "ranks"
"""The check that needs processes of its own, which are started early and asked late."""
_MODULES = (Kind.VISION_ENCODER, Kind.IMAGE_SPLITTER, Kind.CONNECTOR, Kind.LANGUAGE_MODEL)


@dataclass(frozen=True, eq=False)
class Check:
    """One check.

    Args:
        name: short, as the table's column.
        about: one line.
        code: the function of each kind that it applies to, `module:function` in this package.
    """

    name: str
    about: str
    code: Mapping[Kind, str]

    def function(self, kind: Kind) -> Callable[[Any, Any], None] | None:
        """What to call with the subject and the kit; None where the check does not apply to the kind."""
        address = self.code.get(kind)
        if address is None:
            return None
        module, name = address.split(":")
        found: Callable[[Any, Any], None] = getattr(importlib.import_module(f"lensmith.testing.{module}"), name)
        return found


def _of_modules(code: str, **others: str) -> dict[Kind, str]:
    return {**dict.fromkeys(_MODULES, code), **{Kind(kind): other for kind, other in others.items()}}


CHECKS = (
    Check("spec", "the spec's round trip, JSON Schema and example", dict.fromkeys(Kind, "specs:spec")),
    Check("light", "found and described without torch", dict.fromkeys(Kind, "light:light")),
    Check("shape", "declared shapes against actual ones", _of_modules("shapes:shape", tuner="tuning:shape")),
    Check(
        "tokens",
        "token counts against outputs, on random sizes",
        {
            Kind.VISION_ENCODER: "shapes:encoder_tokens",
            Kind.IMAGE_SPLITTER: "shapes:splitter_tokens",
            Kind.CONNECTOR: "shapes:connector_tokens",
        },
    ),
    Check(
        "gradients",
        "gradients reach exactly what trains",
        _of_modules("training:gradients", tuner="tuning:gradients"),
    ),
    Check("frozen", "frozen weights stay put", _of_modules("training:frozen", tuner="tuning:frozen")),
    Check(
        "save",
        "saved, loaded, equal",
        {
            Kind.VISION_ENCODER: "saving:encoder",
            Kind.IMAGE_SPLITTER: "saving:small",
            Kind.CONNECTOR: "saving:small",
            Kind.LANGUAGE_MODEL: "saving:language_model",
            Kind.TUNER: "tuning:save",
        },
    ),
    Check(
        "handed-on",
        "what a tuner trained, after another stage and a merge",
        {Kind.TUNER: "tuning:handed_on"},
    ),
    Check("batch", "a batch of N equals N singles, also while it trains", _of_modules("batches:batch")),
    Check(
        RANKS,
        "a rank with text alone does what a rank with pictures does (two processes)",
        _of_modules("ranks:ranks", tuner="ranks:ranks"),
    ),
    Check(
        "spans",
        "what is learnt, against a tokenizer",
        {Kind.CONVERSATION: "spans:conversation", Kind.LANGUAGE_MODEL: "spans:language_model"},
    ),
    Check(
        "answers",
        "right answers score full marks, empty ones none, missing ones are told",
        {Kind.BENCHMARK: "scoring:benchmark"},
    ),
    Check(
        "trip",
        "files that answer as the artifact does, read back where they are read",
        {Kind.IMPORTER: "trips:importer", Kind.EXPORTER: "trips:exporter"},
    ),
    Check("moves", "other devices and floating types", _of_modules("moves:moves", tuner="tuning:moves")),
    Check(
        "seed",
        "the same seed, the same weights and output",
        _of_modules("seeds:seed", tuner="tuning:seed", conversation="seeds:conversation"),
    ),
)
NAMES = tuple(check.name for check in CHECKS)
