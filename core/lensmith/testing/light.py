"""Check `light`: a plugin is found and described without torch. Run as a module, it looks in a fresh process."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensmith.testing.kit import Kit
    from lensmith.testing.subjects import Subject

HEAVY = ("torch", "transformers")
_PROMISE = "A plugin's module, and the modules of its specs, import neither torch nor transformers."


def light(subject: Subject, kit: Kit) -> None:
    """One fresh process imports the modules of all plugins, torch and transformers out of reach."""
    from lensmith.testing.findings import Broken

    seen = look(kit)
    found = seen.get(str(subject.component), "")
    if found:
        raise Broken(_PROMISE, f"{found}.")


def look(kit: Kit) -> dict[str, str]:
    """What each part imports that it must not, by the part; kept in the kit."""
    if kit.seen_light is None:
        components = set(map(str, kit.components))
        plugins = {p.module: p for p in kit.registry.plugins if components & set(map(str, p.components))}
        done = subprocess.run(
            [sys.executable, "-m", "lensmith.testing.light", *plugins],
            env=kit.environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            kit.seen_light = dict.fromkeys(components, f"Importing it ended the process: {done.stderr.strip()[-600:]}")
        else:
            found = dict(json.loads(done.stdout.splitlines()[-1]))
            whole = {str(c): found.get(name, "") for name, plugin in plugins.items() for c in plugin.components}
            kit.seen_light = whole | found
    return kit.seen_light


class _Guard(importlib.abc.MetaPathFinder):
    """Refuses heavy imports and remembers who asked."""

    def __init__(self) -> None:
        self.asked = ""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in HEAVY:
            return None
        frames = [f for f in traceback.extract_stack()[:-1] if "importlib" not in f.filename]
        self.asked = self.asked or f"{frames[-1].filename}:{frames[-1].lineno} imports {fullname}"
        raise ImportError(f"{fullname} is out of reach of a plugin's module")


def main(modules: Sequence[str]) -> None:
    """Print as JSON what each part of these plugin modules imports that it must not."""
    guard = _Guard()
    sys.meta_path.insert(0, guard)
    seen: dict[str, str] = {}
    for name in modules:
        guard.asked = ""
        try:
            components = list(importlib.import_module(name).lensmith_components())
        except Exception as error:
            seen[name] = guard.asked or f"{type(error).__name__}: {error}"
            continue
        of_module = guard.asked
        for component in components:
            guard.asked = of_module
            try:
                _ = component.spec
            except Exception as error:
                guard.asked = guard.asked or f"{type(error).__name__}: {error}"
            seen[str(component)] = guard.asked
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1:])
