"""Plugins that misbehave break nothing but themselves, whatever they raise, print or end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmith_registry import Kind, Registry, RegistryError, isolated
from lensmith_registry.installed import Plugin

Install = Callable[..., Path]
Discovered = Callable[[], Registry]
Good = Callable[[str, str], str]

HOOK = """
from lensmith import hookimpl
api_version = 1
@hookimpl
def lensmith_components():
    {body}
"""
_NUMBERS = itertools.count()
EXITS = [
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("raise GeneratorExit", "GeneratorExit"),
    ("raise SystemExit(0)", "SystemExit: 0"),
    ("import sys; sys.exit('bye')", "SystemExit: bye"),
    ("import os; os._exit(0)", "called os._exit(0)"),
    ("from os import _exit; _exit(3)", "called os._exit(3)"),
    ("raise RecursionError('deep')", "RecursionError: deep"),
    ("raise MemoryError", "MemoryError"),
    ("class Odd(BaseException): pass\n    raise Odd('odd')", "Odd: odd"),
]


def _press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)  # the signal comes in between


@pytest.mark.parametrize(("code", "told"), EXITS)
@pytest.mark.parametrize("where", ["import", "hook"])
def test_A18_whatever_ends_a_plugin_ends_only_it(
    code: str, told: str, where: str, install: Install, discovered: Discovered, good: Good
) -> None:
    module = f"i_bad_{next(_NUMBERS)}"
    install("i_good", good("i_good", "fine"))
    body = textwrap.dedent(code.replace("\n    ", "\n")) if where == "import" else HOOK.format(body=code)
    install(module, body, distribution="i-bad")
    registry = discovered()
    (failed,) = registry.failures
    assert failed.distribution == "i-bad"
    assert told in failed.error
    assert registry.names("connector") == ["fine"]


def test_A18_what_a_plugin_prints_is_not_the_command_s_output(
    install: Install, discovered: Discovered, good: Good, capsys: pytest.CaptureFixture[str]
) -> None:
    code = textwrap.dedent(good("i_loud", "fine")).replace("return [", "print('in hook'); return [")
    install("i_loud", "print('at import')\n" + code)
    assert discovered().names("connector") == ["fine"]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.split() == ["at", "import", "in", "hook"]


def test_A18_a_child_that_a_plugin_forks_may_end() -> None:
    with isolated():
        child = os.fork()
        if child == 0:
            os._exit(7)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_A18_the_user_s_own_ctrl_c_is_not_taken_for_the_plugin_s() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
    try:
        with isolated() as watch:
            assert not watch.interrupted
            with pytest.raises(KeyboardInterrupt):
                _press_ctrl_c()
            assert watch.interrupted
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "lines",
    [
        "no equals sign",
        "name =",
        "= module",
        "name = two words",
        "broken = module:attr:more",
        "i_other = i_other\nmalformed",
    ],
)
def test_A18_a_malformed_line_of_entry_points_breaks_only_its_package(lines: str, tmp_path: Path, good: Good) -> None:
    for name, entry in (("i_fine", "i_fine = i_fine"), ("i_odd", lines)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(good(name, name)))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lensmith]\n{entry}\n[console_scripts]\nx = y:z\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "lensmith.cli", "plugins", "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    told = {plugin["distribution"]: plugin for plugin in json.loads(done.stdout)}
    assert told["i_fine"]["error"] is None
    assert told["i_odd"]["error"]


def test_A18_a_shape_that_fails_is_told_with_its_package(install: Install, tmp_path: Path) -> None:
    from lensmith.errors import LensmithError
    from lensmith.interfaces.shapes import ConnectorShape
    from lensmith.parts import asked
    from lensmith.spec.build import installed

    spec = installed().get("connector", "mlp").spec()

    def fail(error: BaseException) -> Callable[[], object]:
        def call() -> object:
            raise error

        return call

    for error in (TypeError("no"), SystemExit(0), KeyboardInterrupt(), ZeroDivisionError("by zero")):
        if isinstance(error, KeyboardInterrupt):
            continue  # told from the user's own only in the main thread of a command
        with pytest.raises(LensmithError, match=r"connector 'mlp' of lensmith .* failed in shape\(\)"):
            asked(Kind.CONNECTOR, spec, "shape()", ConnectorShape, fail(error))
    with pytest.raises(LensmithError, match=r"shape\(\) returned str, not ConnectorShape"):
        asked(Kind.CONNECTOR, spec, "shape()", ConnectorShape, lambda: "text")
    with pytest.raises(ValueError, match="the user's own"):
        asked(Kind.CONNECTOR, spec, "shape()", ConnectorShape, fail(ValueError("the user's own")))


def test_N6_how_long_a_plugin_takes_to_import_is_told(install: Install, discovered: Discovered, good: Good) -> None:
    install("i_slow", "import time\ntime.sleep(0.6)\n" + textwrap.dedent(good("i_slow", "slow")))
    install("i_quick", good("i_quick", "quick"))
    found = {plugin.name: plugin for plugin in discovered().plugins}
    assert found["i_slow"].seconds >= 0.6
    assert "'i_slow' of i-slow 1.0 took" in found["i_slow"].slow
    assert "every command waits for it" in found["i_slow"].slow
    assert 0 < found["i_quick"].seconds < found["i_slow"].seconds


def test_N6_what_makes_it_slow_is_named() -> None:
    assert "imports torch" in Plugin("p", "theirs", "1", "m", seconds=3.0, heavy=("torch",)).slow
    assert Plugin("p", "theirs", "1", "m", seconds=0.1, heavy=("torch",)).slow == ""
    assert Plugin("p", "lensmith", "1", "m", seconds=3.0).slow == ""


def test_N6_the_trace_shows_imports(
    install: Install,
    discovered: Discovered,
    good: Good,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install("i_traced", good("i_traced", "traced"))
    monkeypatch.setenv("LENSMITH_TRACE_PLUGINS", "1")
    discovered()
    assert "import i_traced of plugin i_traced (i-traced 1.0): " in capsys.readouterr().err


class TestQualifiedNames:
    """Two packages with a part of one name."""

    def test_N4_a_stranger_does_not_switch_a_built_in_part_off(
        self, install: Install, discovered: Discovered, good: Good
    ) -> None:
        install("ours", good("ours", "mlp"), distribution="lensmith")
        install("theirs", good("theirs", "mlp"), version="2.0")
        registry = discovered()
        assert registry.get("connector", "mlp").distribution == "lensmith"
        other = registry.get("connector", "theirs:mlp")
        assert (other.distribution, other.name) == ("theirs", "theirs:mlp")
        assert registry.get("connector", "lensmith:mlp") is registry.get("connector", "mlp")
        assert registry.names("connector") == ["mlp", "theirs:mlp"]
        (warning,) = registry.conflicts()
        assert warning == (
            "connector 'mlp' is the built-in part; the one of theirs 2.0 is named 'theirs:mlp' in a spec."
        )

    def test_N4_two_strangers(self, install: Install, discovered: Discovered, good: Good) -> None:
        install("q_one", good("q_one", "same"))
        install("q_two", good("q_two", "same"))
        registry = discovered()
        with pytest.raises(RegistryError, match="name the one that you mean: 'q-one:same' or 'q-two:same'"):
            registry.get("connector", "same")
        assert registry.get("connector", "q-one:same").distribution == "q-one"
        assert registry.get("connector", "q_two:same").distribution == "q-two"  # as packaging compares names

    def test_N4_a_name_may_be_qualified_where_it_need_not_be(
        self, install: Install, discovered: Discovered, good: Good
    ) -> None:
        install("q_alone", good("q_alone", "alone"))
        registry = discovered()
        assert registry.get("connector", "q-alone:alone").name == "alone"
        for wrong in ("q-alone:other", "nobody:alone", ":alone", "q-alone:"):
            with pytest.raises(RegistryError, match="no connector is called"):
                registry.get("connector", wrong)

    def test_N4_the_spec_of_a_qualified_part_keeps_its_name(
        self, install: Install, discovered: Discovered, good: Good
    ) -> None:
        from lensmith.spec.build import part_class

        install("q_here", good("q_here", "mine"))
        install("q_there", good("q_there", "mine"))
        chosen = part_class(Kind.CONNECTOR, "q-there:mine", discovered()).model_validate({"width": 9})
        assert chosen.model_dump() == {"name": "q-there:mine", "width": 9}
