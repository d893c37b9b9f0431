"""docs/write_a_plugin.md: its code is that of the example package, and its command prints what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lensmith.cli.commands import build
from lensmith.scaffold import kinds

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "write_a_plugin.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "examples" / "plugins" / "ldp_connector"
CODE = re.findall(r"^`([\w./]+)`:\n\n```python\n(.*?)^```", PAGE, re.M | re.S)


def test_all_code_is_cut_from_files() -> None:
    assert len(CODE) == PAGE.count("```python") == 4


@pytest.mark.parametrize(("place", "code"), CODE, ids=[place for place, _ in CODE])
def test_code_is_that_of_the_example(place: str, code: str) -> None:
    assert code == (PACKAGE / place).read_text(encoding="utf-8")


def test_the_entry_point_is_that_of_the_example() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    assert block in (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")


def test_the_command_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ((command, output),) = re.findall(r"```console\n\$ lensmith ([^\n]+)\n(.*?)```", PAGE, re.S)
    build("plugin")(shlex.split(command), standalone_mode=False)
    assert capsys.readouterr().out == output
    made = tmp_path / "lensmith-ldp"
    assert {place for place, _ in CODE} <= {str(path.relative_to(made)) for path in made.rglob("*.py")}


def test_the_page_names_every_kind() -> None:
    (sentence,) = re.findall(r"`--kind` is one of\n(.*?)\. Install", PAGE, re.S)
    assert re.findall(r"`(\w+)`", sentence) == [kind.value for kind in kinds()]


@pytest.mark.parametrize("page", ["write_a_plugin.md", "swap_a_part.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link
