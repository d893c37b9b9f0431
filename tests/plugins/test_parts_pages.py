"""docs/parts is what the installed records say, and every example on it is a valid spec."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from lensmith import Component, Kind, SpecError, discover, load_spec
from lensmith.catalog import example, page
from lensmith.spec.build import part_class
from lensmith.spec.yaml import parse_yaml

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "parts"
REGISTRY = discover()
OURS = [component for component in REGISTRY.components() if component.distribution == "lensmith"]


@pytest.mark.parametrize("kind", list(Kind))
def test_the_page_is_up_to_date(kind: Kind) -> None:
    """Cure of a failure: `lensmith docs docs/parts --distribution lensmith`."""
    written = (PAGES / f"{kind.value}s.md").read_text(encoding="utf-8")
    assert written == page(kind, [component for component in OURS if component.kind is kind])


@pytest.mark.parametrize("component", OURS, ids=str)
def test_the_example_is_a_valid_spec_of_the_part(component: Component) -> None:
    document: Any = parse_yaml(example(component), source="example", base=Path()).data
    data = document[component.kind.value]
    assert data["name"] == component.name
    spec = TypeAdapter(part_class(component.kind, component.name, REGISTRY)).validate_python(data)
    assert TypeAdapter(type(spec)).validate_python(spec.model_dump()) == spec


@pytest.mark.parametrize("component", OURS, ids=str)
def test_every_field_is_described(component: Component) -> None:
    described = component.spec.field_descriptions()
    assert [name for name in component.spec.model_fields if not described.get(name)] == []


def test_the_readme_names_every_part() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for kind in Kind:
        (row,) = [line for line in text.splitlines() if f"(docs/parts/{kind.value}s.md)" in line]
        named = set(row.split("|")[2].replace("`", "").split())
        assert named == {component.name for component in OURS if component.kind is kind}


def test_the_mistakes_in_the_readme_are_told_so(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "examples" / "quickstart" / "digits.yaml", tmp_path / "digits.yaml")
    lines = ["extends: digits.yaml", "model:", "  connector: {name: mpl, depth: 2}"]
    lines += ["stages:", "  read: {lr: fast, bach: {size: 8}}"]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    with pytest.raises(SpecError) as refused:
        load_spec(tmp_path / "mine.yaml")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(refused.value.problems) == 3
    for problem in refused.value.problems:
        assert f": {problem.path}: {problem.message}\n" in text
