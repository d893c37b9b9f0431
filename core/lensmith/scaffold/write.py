"""Copy a template under a new name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from lensmith.errors import ArtifactError, LensmithError
from lensmith.files import atomic_folder
from lensmith.scaffold.names import PackageNames
from lensmith_registry import Kind

_TEMPLATES = Path(__file__).parent / "templates"
_PLACES = {
    "gitignore": ".gitignore",
    "ci.yml": ".github/workflows/tests.yml",
    "conformance.py": "tests/test_conformance.py",
}
"""Files of every package whose place is not that of the template."""


def kinds() -> list[Kind]:
    """The kinds of parts that there are templates of."""
    return [kind for kind in Kind if (_TEMPLATES / kind.value).is_dir()]


def new_package(names: PackageNames, folder: Path) -> Path:
    """Write a package with one part that works, ready to be changed.

    Args:
        names: of the part and its package.
        folder: the new folder; it appears whole or not at all.

    Raises:
        LensmithError: the folder exists or cannot be written, or there is no template of the kind.
    """
    if names.kind not in kinds():
        raise LensmithError(
            f"there is no template of a {names.kind} yet, only of {', '.join(map(str, kinds()))}; docs/plugins.md says"
            " what the interface asks for"
        )
    try:
        with atomic_folder(folder) as new:
            for place, text in written_files(names):
                target = new / place
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
    except ArtifactError as error:
        raise LensmithError(f"{error} (--output)") from error
    except OSError as error:
        raise LensmithError(
            f"{folder} cannot be written: {error.strerror or error}; choose another --output"
        ) from error
    return folder


def written_files(names: PackageNames) -> Iterator[tuple[str, str]]:
    """Place and text of each file of a package."""
    for template in sorted((_TEMPLATES / "common").iterdir()):
        if template.is_file():
            yield _PLACES.get(template.name, template.name), _filled(template, names)
    for template in sorted((_TEMPLATES / names.kind.value).glob("*.py")):
        yield f"{names.module}/{template.name}", _filled(template, names)


def _filled(template: Path, names: PackageNames) -> str:
    """A template's text with the names of the package."""
    words = {
        "lensmith_example_part": names.module,
        "lensmith-example-part": names.distribution,
        "example_part": names.part,
        "ExamplePart": names.stem,
        "example_kind": names.kind.value,
        "example_words": names.kind.value.replace("_", " "),
        "example_module": names.noun,
        "lensmith>=0.0.0": f"lensmith>={metadata.version('lensmith')}",
    }
    pattern = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.sub(pattern, lambda found: words[found.group()], template.read_text(encoding="utf-8"))
