"""Records: checked when they are made, frozen afterwards, and imported only when they are built."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lensmith_registry import BrokenPluginError, Component, Kind, PartSpec, RegistryError


class Plain(PartSpec):
    depth: int = 2
    rate: float = 0.5


class Named(PartSpec):
    name: str = "mine"


def record(**changes: Any) -> Component:
    fields = {"kind": Kind.CONNECTOR, "name": "mine", "spec": Plain, "implementation": "a.b:C", "summary": "a part"}
    return Component(**(fields | changes))


@pytest.mark.parametrize("kind", [kind.value for kind in Kind])
def test_a_kind_may_be_given_as_text(kind: str) -> None:
    assert record(kind=kind).kind is Kind(kind)


def test_kinds_are_the_parts_of_a_model_and_what_is_done_with_it() -> None:
    assert [str(kind) for kind in Kind] == [
        "vision_encoder",
        "image_splitter",
        "connector",
        "language_model",
        "tuner",
        "conversation",
        "benchmark",
        "importer",
        "exporter",
    ]


@pytest.mark.parametrize("name", ["mlp", "llava-1.5", "0", "a_b.c-d", "qwen2"])
def test_names_that_are_allowed(name: str) -> None:
    assert record(name=name).name == name


@pytest.mark.parametrize("name", ["", "MLP", "mein teil", "-a", ".a", "a/b", "a:b", "é", "a\n", 3, None])
def test_names_that_are_refused(name: object) -> None:
    with pytest.raises(RegistryError, match="a name is lower-case letters, digits"):
        record(name=name)


@pytest.mark.parametrize("kind", ["conector", "", None, 3, []])
def test_an_unknown_kind_is_refused_with_all_kinds(kind: object) -> None:
    with pytest.raises(RegistryError, match=r"not one of vision_encoder, .*conversation"):
        record(kind=kind)


@pytest.mark.parametrize("spec", [int, dict, Plain(), None, "Plain"])
def test_a_spec_must_be_a_part_spec_class(spec: object) -> None:
    with pytest.raises(RegistryError, match=r"must be a subclass of lensmith\.PartSpec"):
        record(spec=spec)


def test_a_spec_may_not_have_a_field_called_name() -> None:
    with pytest.raises(RegistryError, match="connector 'mine' has a field `name` in Named"):
        record(spec=Named)


@pytest.mark.parametrize("implementation", ["", "a.b", "a.b:", ":C", "a b:C", "a:b:C", "a.b:C.d", "1a:C", None])
def test_an_implementation_must_name_module_and_class(implementation: object) -> None:
    with pytest.raises(RegistryError, match=r"must read 'package\.module:Class'"):
        record(implementation=implementation)


@pytest.mark.parametrize("summary", ["", "  ", "two\nlines", None])
def test_a_summary_is_one_line(summary: object) -> None:
    with pytest.raises(RegistryError, match="summary must be one line of text"):
        record(summary=summary)


def test_a_record_is_frozen() -> None:
    component = record()
    with pytest.raises(dataclasses.FrozenInstanceError):
        component.name = "other"  # type: ignore[misc]


def test_provenance_makes_a_new_record() -> None:
    component = record()
    placed = component.from_distribution("theirs", "2.1")
    assert (placed.distribution, placed.version) == ("theirs", "2.1")
    assert component.distribution == ""
    assert placed == record(distribution="theirs", version="2.1")


def test_a_spec_is_frozen_refuses_unknown_fields_and_numbers_without_end() -> None:
    spec = Plain(depth=3)
    with pytest.raises(ValidationError, match="frozen"):
        spec.depth = 4
    with pytest.raises(ValidationError, match="depht"):
        Plain.model_validate({"depht": 3})
    with pytest.raises(ValidationError, match="finite"):
        Plain(rate=float("inf"))


def test_making_a_record_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "records_explode.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    component = record(implementation="records_explode:C", distribution="theirs", version="2.1")
    with pytest.raises(BrokenPluginError) as caught:
        component.load()
    for words in ("connector 'mine' of theirs 2.1", "records_explode:C", "RuntimeError: imported"):
        assert words in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_load_returns_the_class() -> None:
    assert record(implementation="collections:OrderedDict").load() is __import__("collections").OrderedDict


def test_a_missing_package_is_named_with_who_wanted_it() -> None:
    component = record(implementation="not_installed_at_all.part:C", distribution="theirs", version="2.1")
    with pytest.raises(BrokenPluginError, match=r"theirs 2\.1 cannot be imported .*not_installed_at_all"):
        component.load()


def test_a_missing_class_is_named() -> None:
    with pytest.raises(BrokenPluginError, match=r"of an unnamed package: module json has no 'Nope'"):
        record(implementation="json:Nope").load()


def test_an_implementation_that_ends_the_program_does_not(install: Callable[..., Path]) -> None:
    install("records_exit", "import sys\nsys.exit('no licence')")
    with pytest.raises(BrokenPluginError, match="SystemExit: no licence"):
        record(implementation="records_exit:C", distribution="theirs").load()


CTRL_C = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(10)"


def test_the_user_s_interrupt_is_never_held_back(install: Callable[..., Path]) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
    try:
        install("records_interrupt", CTRL_C)
        with pytest.raises(KeyboardInterrupt):
            record(implementation="records_interrupt:C").load()
    finally:
        signal.signal(signal.SIGINT, before)


def test_A18_an_interrupt_of_the_package_s_own_is_its_failure(install: Callable[..., Path]) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        install("records_raises", "raise KeyboardInterrupt")
        with pytest.raises(BrokenPluginError, match="KeyboardInterrupt"):
            record(implementation="records_raises:C", distribution="theirs").load()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_spec_with_an_annotation_that_is_not_there_is_refused(install: Callable[..., Path]) -> None:
    code = """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        from lensmith_registry import PartSpec
        if TYPE_CHECKING:
            from decimal import Decimal
        class Spec(PartSpec):
            rate: Decimal = 1
    """
    install("records_late", code)
    spec = __import__("records_late").Spec
    with pytest.raises(RegistryError, match=r"'Decimal' in Spec is not defined; import it outside"):
        record(spec=spec)
