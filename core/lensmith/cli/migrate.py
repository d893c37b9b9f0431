"""`lensmith migrate`: another project's training script as a spec. No torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def migrate(
    script: Annotated[
        Path, typer.Argument(metavar="SCRIPT", help="Shell script, or a JSON, YAML or TOML file of arguments.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the spec; else printed.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="GPUs of all machines; by default what the script says.")
    ] = None,
) -> None:
    """Write the spec that a training script of LLaVA asks for, and say what of it could not be carried over."""
    import yaml

    from lensmith.errors import Problem, SpecError
    from lensmith.migration import migrate as carry
    from lensmith.migration import read_arguments
    from lensmith.spec.build import installed, load_spec
    from lensmith.spec.check import check

    if output is not None and output.exists():
        raise SpecError([Problem("--output", f"{output} is there already; choose another name, or delete it")])
    arguments = read_arguments(script)
    found = carry(arguments, installed(), gpus=gpus)
    if output is not None and output.absolute().parent != Path.cwd():
        _anchor(found.spec)
    text = yaml.safe_dump(found.spec, sort_keys=False, allow_unicode=True)
    head = f"# What {script} asks for. `lensmith check` and `lensmith plan` say what it builds.\n"
    if output is None:
        print(head + text, end="")
    else:
        output.write_text(head + text, encoding="utf-8")
        print(output)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    for name, why in found.left.items():
        print(f"not carried: {name}: {why}", file=sys.stderr)
    for problem in check(load_spec(found.spec)):
        print(f"to mend: {problem}", file=sys.stderr)


_PATHS = ("path", "images", "checkpoint", "output")


def _anchor(value: Any) -> None:
    """Make relative paths absolute: a script's start from where it is run, a spec's from its own folder."""
    for key, below in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(below, (dict, list)):
            _anchor(below)
        elif isinstance(below, str) and key in _PATHS and (key != "checkpoint" or _is_file(below)):
            value[key] = str(Path(below).absolute())


def _is_file(checkpoint: str) -> bool:
    """Whether it is meant as a file or folder, and not as a hub id."""
    return checkpoint.startswith("./") or Path(checkpoint).exists()
