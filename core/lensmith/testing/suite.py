"""The kit for pytest: a class of tests, one for each part and check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lensmith.testing.checks import RANKS


def conformance_suite(target: str | None = None, *, checks: Sequence[str] = ()) -> type:
    """A test class that holds a package's parts against their interfaces. A whole test file:

        from lensmith.testing import conformance_suite

        TestConformance = conformance_suite("my-package")

    `pytest -k "my_part and gradients"` runs one check of one part.

    Args:
        target: a distribution, a plugin's name or a component's name; by default all parts that are installed beside
            Lensmith's own.
        checks: names of the checks to run; all by default.

    Raises:
        LensmithError: nothing is called so.
    """
    import pytest

    from lensmith.testing.kit import Kit

    chosen = Kit(target, checks)
    pairs = [(component, check) for component in chosen.components for check in chosen.checks]
    # The two processes work while the other checks run; what they saw is asked last.
    cases = sorted(((c, k) for c, k in pairs if c.kind in k.code), key=lambda case: case[1].name == RANKS)

    class TestConformance:
        @classmethod
        def setup_class(cls) -> None:
            chosen.__enter__()

        @classmethod
        def teardown_class(cls) -> None:
            chosen.__exit__()

        @pytest.mark.parametrize(
            ("component", "check"), cases, ids=[f"{c.kind.value}-{c.name}-{k.name}" for c, k in cases]
        )
        def test_it_keeps_its_promise(self, request: Any, component: Any, check: Any) -> None:
            selected = [item.callspec.params for item in request.session.items if item.cls is type(self)]
            if any(params["check"].name == RANKS for params in selected):
                chosen.start_ranks()
            finding = chosen.run(component, check)
            if finding.outcome == "fail":
                pytest.fail(str(finding), pytrace=False)
            if finding.outcome == "not applicable":
                pytest.skip(finding.seen)

    return TestConformance
