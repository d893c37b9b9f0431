"""`lensmith doctor` and `python -m lensmith`: what is wrong is found, named and in the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lensmith import doctor, tested
from lensmith.doctor import Finding, examine
from lensmith.tested import LibraryError
from lensmith_registry import Plugin, Probe, Registry, RegistryError


def test_the_whole_report_of_a_sound_installation(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lensmith", "doctor", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    report = json.loads(done.stdout)
    failed = [finding for finding in report["findings"] if finding["state"] == "FAILED"]
    assert (failed, done.returncode, report["ok"]) == ([], 0, True), done.stderr
    assert done.stderr == ""
    found = {(finding["section"], finding["name"]) for finding in report["findings"]}
    assert {("versions", name) for name in ("lensmith", "python", *tested.libraries())} <= found
    assert {("hardware", "cores"), ("hardware", "memory"), ("disk", "this folder"), ("plugins", "working")} <= found
    assert {
        ("probes", "a prefix reaches the keys"),
        ("probes", "attention keeps packed samples apart"),
        ("probes", "an adapter changes the logits and folds in"),
    } <= found


def test_python_dash_m_lensmith_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lensmith", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lensmith ")


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """Findings by name, with probes and plugins of the test's own."""

    def make(*probes: Probe, plugins: list[Plugin] | None = None) -> dict[str, Finding]:
        monkeypatch.setattr(doctor, "_PROBES", probes)
        monkeypatch.setattr(doctor, "discover", lambda: Registry(plugins or []))
        return {finding.name: finding for finding in examine()}

    return make


def wrong() -> str:
    raise LibraryError("transformers", "the prefix does not reach the keys")


def changed() -> str:
    print("what a library prints")
    raise TypeError("forward() got an unexpected keyword argument 'cache'")


def right() -> str:
    return "by SDPA"


def test_probes_that_fail_name_the_library(report: Callable[..., dict[str, Finding]], capsys: Any) -> None:
    here = __name__
    sys.modules.setdefault(here, sys.modules[__name__])
    found = report(
        Probe("wrong", "transformers", f"{here}:wrong"),
        Probe("changed", "peft", f"{here}:changed"),
        Probe("right", "torch", f"{here}:right"),
        Probe("gone", "torch", f"{here}:gone"),
    )
    assert found["wrong"].state == found["changed"].state == found["gone"].state == "FAILED"
    assert found["wrong"].value.startswith("transformers ")
    assert "the prefix does not reach the keys" in found["wrong"].value
    assert found["changed"].value.startswith("peft ")
    assert "TypeError: forward() got an unexpected keyword argument 'cache'" in found["changed"].value
    assert found["right"].state == "ok"
    assert found["right"].value.startswith("torch: by SDPA (")
    assert f"{here}:gone cannot be imported" in found["gone"].value
    assert capsys.readouterr().out == ""


def test_versions_outside_what_was_tested(
    report: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tested,
        "libraries",
        lambda: {
            "torch": tested.Tested("1.0", "1.1"),
            "pytest": tested.Tested("0.1", "99999"),
            "not-there": tested.Tested("2.0", "2.1"),
        },
    )
    monkeypatch.setattr(tested, "python", lambda: tested.Tested("3.5", "3.6"))
    found = report()
    assert found["torch"].state == "warning"
    assert "tested: 1.0 to 1.1" in found["torch"].value
    assert found["torch"].cure.startswith('pip install "torch==1.1"')
    assert found["pytest"].state == "ok"
    assert (found["not-there"].state, found["not-there"].value) == ("FAILED", "not installed")
    assert found["python"].state == "warning"


def test_plugins_that_fail_or_are_disabled(report: Callable[..., dict[str, Finding]]) -> None:
    plugins = [
        Plugin("good", "lensmith-good", "1.0", "good"),
        Plugin("bad", "lensmith-bad", "2.0", "bad", error="ImportError:\nno torchx", remedy="pip install torchx"),
        Plugin("off", "lensmith-off", "3.0", "off", disabled=True),
    ]
    found = report(plugins=plugins)
    assert found["working"].value == "1 with 0 parts, of lensmith-good 1.0"
    bad = found["bad of lensmith-bad 2.0"]
    assert (bad.state, bad.value, bad.cure) == ("FAILED", "ImportError: no torchx", "pip install torchx")
    assert found["off of lensmith-off 3.0"].state == "note"


@pytest.mark.parametrize(
    ("name", "module", "function", "value", "cure"),
    [
        ("this folder", "shutil", "disk_usage", (10**9, 10**9, 10**6), "14 GB"),
        ("/dev/shm", "shutil", "disk_usage", (64 * 2**20, 0, 64 * 2**20), "--shm-size"),
        ("open files", "resource", "getrlimit", (256, 256), "ulimit -n"),
    ],
)
def test_what_runs_out_is_a_warning(
    report: Callable[..., dict[str, Finding]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: str,
    function: str,
    value: tuple[int, ...],
    cure: str,
) -> None:
    usage = __import__("collections").namedtuple("usage", "total used free")
    made = usage(*value) if len(value) == 3 else value
    monkeypatch.setattr(__import__(module), function, lambda *_: made)
    if name == "/dev/shm" and not Path(name).is_dir():
        pytest.skip("this system has no /dev/shm")
    found = report()
    assert found[name].state == "warning"
    assert cure in found[name].cure


def test_a_look_that_fails_is_a_finding(
    report: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[Finding]:
        raise RuntimeError("no such\ncounter")

    monkeypatch.setattr(doctor, "_hardware", broken)
    found = [finding for finding in report().values() if finding.section == "hardware"]
    assert [(f.state, f.value) for f in found] == [("FAILED", "cannot be looked at: no such counter")]


def test_a_failure_is_in_the_exit_code(tmp_path: Path) -> None:
    """A stranger's package whose probe fails, in a process of its own."""
    package = tmp_path / "site"
    info = package / "lensmith_sick-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lensmith-sick\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lensmith]\nsick = lensmith_sick\n")
    (package / "lensmith_sick.py").write_text(
        "from lensmith import Probe, hookimpl\napi_version = 1\n"
        "def look():\n    raise ValueError('two numbers differ')\n"
        "@hookimpl\ndef lensmith_probes():\n    return [Probe('numbers agree', 'numpy', 'lensmith_sick:look')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "lensmith", "doctor"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "  FAILED   numbers agree: numpy " in done.stdout
    assert "ValueError: two numbers differ" in done.stdout
    assert "1 failed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_hook_that_returns_something_else_is_refused() -> None:
    from types import ModuleType

    from lensmith_registry import hookimpl, register

    module = ModuleType("odd")
    module.api_version = 1  # type: ignore[attr-defined]
    module.lensmith_probes = hookimpl(lambda: ["x"])  # type: ignore[attr-defined]
    with pytest.raises(RegistryError, match=r"returned 'x', which is not a Probe"):
        register("odd", module, "lensmith-odd", "1.0")
