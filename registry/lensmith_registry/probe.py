"""Probes: what `lensmith doctor` runs to see whether other libraries do what a plugin builds on."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from lensmith_registry.errors import RegistryError


@dataclass(frozen=True)
class Probe:
    """A look at another library on tiny parts, a second at most.

    Args:
        name: what is looked at, as a statement: `a prefix reaches the keys`.
        library: the distribution whose behaviour that is.
        function: `module:function`, imported when it runs. It takes nothing, returns a note (which way is taken; may
            be empty), and raises where the statement does not hold.
    """

    name: str
    library: str
    function: str

    def run(self) -> str:
        """Run it; its note.

        Raises:
            RegistryError: there is no such function.
            Exception: whatever it raises, which means that the statement does not hold.
        """
        module, _, attribute = self.function.partition(":")
        try:
            function: Any = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RegistryError(f"probe {self.name!r}: {self.function} cannot be imported: {error}") from error
        return str(function() or "")
