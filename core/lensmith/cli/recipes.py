"""`lensmith recipes` and `lensmith show recipe NAME`: specs that are shipped, ours and those of plugins. No torch."""

from __future__ import annotations

import difflib
from pathlib import Path

from lensmith.cli.catalog import JsonOption
from lensmith.cli.output import print_json, print_table
from lensmith.errors import LensmithError
from lensmith_registry import discover


def recipes(as_json: JsonOption = False) -> None:
    """List the recipes: specs that `extends: NAME`, `lensmith check NAME` and `lensmith plan NAME` take by name."""
    from lensmith.spec.compose import recipes as shipped

    found = shipped(discover())
    if as_json:
        print_json([{"name": name, "about": about(file), "file": str(file)} for name, file in found.items()])
        return
    print_table(("RECIPE", "ABOUT"), [(name, about(file)) for name, file in found.items()])


def show_recipe(name: str, *, as_json: bool = False) -> None:
    """Print a recipe as it is shipped.

    Raises:
        LensmithError: there is no such recipe; says which there are.
    """
    from lensmith.spec.compose import recipes as shipped

    found = shipped(discover())
    if name not in found:
        close = difflib.get_close_matches(name, found, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise LensmithError(f"there is no recipe {name!r}.{hint} Recipes: {', '.join(found) or 'none'}")
    text = found[name].read_text(encoding="utf-8")
    if as_json:
        print_json({"name": name, "about": about(found[name]), "file": str(found[name]), "text": text})
        return
    print(text.rstrip())
    print(
        f"\n# Shipped as {found[name]}. Use it: `extends: {name}`. With all defaults: lensmith check {name} --resolved"
    )


def about(file: Path) -> str:
    """The first sentence of the comment at a recipe's beginning."""
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.strip() == "#":
            break
        words += line.removeprefix("#").split()
    text = " ".join(words)
    for end, letter in enumerate(text):
        # A full stop inside brackets, as of `et al.`, ends nothing.
        if (
            letter == "."
            and text[end + 1 : end + 2] in ("", " ")
            and text.count("(", 0, end) == text.count(")", 0, end)
        ):
            return text[:end]
    return text
