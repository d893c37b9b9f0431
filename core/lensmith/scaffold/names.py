"""From the name of a part to the names of its package, its modules and its classes."""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import dataclass
from importlib import metadata

import lensmith
from lensmith.errors import LensmithError
from lensmith_registry import Kind, Registry

_PREFIX = "lensmith"
_NAME = re.compile(r"[a-z](?:[a-z0-9_.-]*[a-z0-9])?\Z")


@dataclass(frozen=True)
class PackageNames:
    """How everything in a new package is called.

    Args:
        part: the name that a spec file uses, e.g. `tiny-vit`.
        kind: of the part.
    """

    part: str
    kind: Kind

    @property
    def distribution(self) -> str:
        """What pip installs, e.g. `lensmith-tiny-vit`."""
        return "-".join([_PREFIX, *self._words])

    @property
    def module(self) -> str:
        """What Python imports, e.g. `lensmith_tiny_vit`."""
        return "_".join([_PREFIX, *self._words])

    @property
    def stem(self) -> str:
        """What its classes begin with, e.g. `TinyVit`; never so that one has the name of an interface."""
        words = self._words
        # `tiny_encoder` makes a TinyEncoder, not a TinyEncoderEncoder.
        if len(words) > 1 and words[-1] == self.noun:
            words = words[:-1]
        stem = "".join(word[0].upper() + word[1:] for word in words)
        taken = any(stem + ending in lensmith.__all__ for ending in (self.noun.capitalize(), "Spec", "Preprocessing"))
        return f"My{stem}" if taken else stem

    @property
    def noun(self) -> str:
        """The last word of the kind, e.g. `encoder`: what the module of the implementation is called."""
        return self.kind.value.rpartition("_")[2]

    @property
    def _words(self) -> list[str]:
        words = [word for word in re.split(r"[-_.]+", self.part) if word]
        # A name that has the prefix of our packages keeps it once.
        while len(words) > 1 and words[0] == _PREFIX:
            words = words[1:]
        return words


def package_names(part: str, kind: Kind, registry: Registry) -> PackageNames:
    """The names for a new part.

    Args:
        part: the name that a spec file shall use.
        kind: of the part.
        registry: what is installed.

    Raises:
        LensmithError: a name that no part may have, that an installed part of the kind has, or whose package is
            installed already; says what to choose instead.
    """
    if not _NAME.match(part):
        words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part).lower()).strip("_")
        close = re.sub(r"\A[^a-z]+", "", words)
        hint = f", e.g. {close!r}" if close and not keyword.iskeyword(close) else ""
        raise LensmithError(
            f"{part!r} cannot be a part's name: it is lower-case letters, digits, '_', '.' and '-', begins with a"
            f" letter and ends with a letter or a digit{hint}"
        )
    if keyword.iskeyword(part) or keyword.iskeyword(part.capitalize()):
        raise LensmithError(
            f"{part!r} is a word of the Python language and cannot be a part's name; choose another, e.g."
            f" '{part}_{kind.value}'"
        )
    offered = [component for plugin in registry.plugins for component in plugin.components]
    owners = [f"{c.distribution} {c.version}" for c in offered if (c.kind, c.name) == (kind, part)]
    if owners:
        raise LensmithError(
            f"{kind} {part!r} is already offered by {' and '.join(sorted(set(owners)))}; a part's name must be its"
            f" own. Names of this kind that are taken: {', '.join(registry.names(kind))}"
        )
    names = PackageNames(part, kind)
    try:
        installed = f"{names.distribution} {metadata.version(names.distribution)}"
    except metadata.PackageNotFoundError:
        installed = f"a module {names.module}" if importlib.util.find_spec(names.module) else ""
    if installed:
        raise LensmithError(f"{installed} is installed already; choose another name for the part than {part!r}")
    return names
