"""A machine with much on it: 300 installed distributions, 50 of them plugins of 20 components each.

`python benchmarks/startup/crowd.py FOLDER` writes them; a process that has FOLDER on `PYTHONPATH` has them installed.
"""

from __future__ import annotations

import compileall
import sys
from pathlib import Path

DISTRIBUTIONS, PLUGINS, PARTS = 300, 50, 20
KINDS = ("vision_encoder", "connector", "language_model", "tuner", "conversation")
BASES = ("VisionEncoderSpec", "ConnectorSpec", "LanguageModelSpec", "TunerSpec", "ConversationSpec")

SPECS_HEAD = "from __future__ import annotations\n\nfrom lensmith import " + ", ".join(sorted(BASES)) + "\n"
SPEC = '''

class Spec{number}({base}):
    """Part {number} of a stranger."""

    checkpoint: str | None = None
    """Where its weights are. Default none."""
    depth: int = 2
    """Layers. Default 2."""
'''
MODULE_HEAD = """from __future__ import annotations

from lensmith import Component, hookimpl
{specs}
api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    return [
"""
RECORD = """        Component(
            kind="{kind}",
            name="{module}-{number}",
            spec={spec},
            implementation="{module}.parts:Part{number}",
            summary="part {number} of {module}",
            paper="Nobody et al. 2025",
        ),
"""
METADATA = """Metadata-Version: 2.4
Name: {name}
Version: {version}
Summary: a package of a stranger
{more}

{readme}
"""


def install(folder: Path, *, late: bool = True) -> Path:
    """Write every distribution as an installer leaves it, bytecode included.

    Args:
        folder: made where it is not there.
        late: plugins name their spec classes (`"module:Class"`); else they import them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(DISTRIBUTIONS):
        name = f"crowd-{number:03}"
        entries = "[console_scripts]\n" + f"{name} = {name.replace('-', '_')}:main\n"
        if number < PLUGINS:
            plugin(folder, name.replace("-", "_"), late=late)
            entries += f"\n[lensmith]\nparts = {name.replace('-', '_')}\n"
        info = folder / f"{name.replace('-', '_')}-1.{number}.dist-info"
        info.mkdir()
        more = "\n".join(f"Requires-Dist: needed-{n}>=1.{n}" for n in range(12))
        readme = "What it does, at some length.\n" * 60
        (info / "METADATA").write_text(METADATA.format(name=name, version=f"1.{number}", more=more, readme=readme))
        (info / "entry_points.txt").write_text(entries)
        (info / "RECORD").write_text(f"{name.replace('-', '_')}/__init__.py,,\n")
        (info / "INSTALLER").write_text("pip\n")
    compileall.compile_dir(folder, quiet=2)
    return folder


def plugin(folder: Path, module: str, *, late: bool) -> None:
    """Write one plugin package: the module of its records and that of its specs."""
    package = folder / module
    package.mkdir()
    specs, records = SPECS_HEAD, ""
    for number in range(PARTS):
        specs += SPEC.format(number=number, base=BASES[number % len(BASES)])
        spec = f'"{module}.specs:Spec{number}"' if late else f"specs.Spec{number}"
        records += RECORD.format(kind=KINDS[number % len(KINDS)], module=module, number=number, spec=spec)
    (package / "specs.py").write_text(specs)
    head = MODULE_HEAD.format(specs="" if late else f"from {module} import specs\n")
    (package / "__init__.py").write_text(f"{head}{records}    ]\n")


if __name__ == "__main__":
    install(Path(sys.argv[1]))
