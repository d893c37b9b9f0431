"""From a benchmark's name and options to the benchmark."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError

from lensmith.errors import LensmithError, SpecError
from lensmith.interfaces.benchmark import Benchmark, BenchmarkSpec
from lensmith.spec.yaml import parse_scalar
from lensmith_registry import Kind, Registry, RegistryError, discover


def benchmark(name: str, options: Sequence[str] = (), registry: Registry | None = None) -> Benchmark:
    """Make a benchmark.

    Args:
        name: exact, see `lensmith list --kind benchmark`.
        options: `field=value` of its spec, values as in YAML.
        registry: by default what is installed.

    Raises:
        LensmithError: no such benchmark, field or value; says what there is.
    """
    try:
        component = (registry or discover()).get(Kind.BENCHMARK, name)
        spec_class, implementation = component.spec, component.load()
    except RegistryError as error:
        raise LensmithError(str(error)) from error
    if not issubclass(spec_class, BenchmarkSpec):
        raise LensmithError(
            f"{component} of {component.distribution} cannot be used: its spec {spec_class.__name__} must derive from"
            " lensmith.BenchmarkSpec"
        )
    written = dict(_split(option) for option in options)
    known = list(spec_class.model_fields)
    for field in written:
        if field not in known:
            close = difflib.get_close_matches(field, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise LensmithError(f"{name} has no option {field!r}.{hint} Options: {', '.join(known) or 'none'}.")
    return cast(Benchmark, implementation(_validated(name, spec_class, written)))


def _validated(name: str, spec_class: type[BenchmarkSpec], written: Mapping[str, str]) -> BenchmarkSpec:
    values = {field: _value(field, text) for field, text in written.items()}
    try:
        return spec_class.model_validate(values)
    except ValidationError as error:
        # A choice such as `2021` is text that reads as a number.
        texts = {str(detail["loc"][0]): written[str(detail["loc"][0])] for detail in error.errors() if detail["loc"]}
    try:
        return spec_class.model_validate(values | texts)
    except ValidationError as error:
        problems = [
            f"option {'.'.join(map(str, detail['loc']))} of {name}: {detail['msg'].removeprefix('Input ')}; it is"
            f" {detail['input']!r}"
            for detail in error.errors(include_url=False)
        ]
        raise LensmithError("\n".join(problems)) from None


def _value(field: str, text: str) -> Any:
    try:
        return parse_scalar(text)
    except SpecError as error:
        raise LensmithError(f"option {field}: {error.problems[0].message}") from error


def _split(option: str) -> tuple[str, str]:
    name, equals, text = option.partition("=")
    if not equals or not name.strip():
        raise LensmithError(f"option {option!r} should read NAME=VALUE")
    return name.strip(), text
