"""Every tensor that does not fit is named, and many of a kind take one name."""

from __future__ import annotations

from lensmith.tensors import misfits

LAYERS = {f"layers.{layer}.{name}.weight": (4, 8) for layer in range(32) for name in ("q", "k")}


def test_what_fits() -> None:
    assert misfits(LAYERS, dict(LAYERS)) == []


def test_layers_are_told_together() -> None:
    stored = {name: shape for name, shape in LAYERS.items() if ".q." not in name or ".7." in name}
    assert misfits(LAYERS, stored) == ["missing 31: layers.{0-6,8-31}.q.weight"]


def test_each_problem_has_its_line() -> None:
    stored = LAYERS | {"layers.3.k.weight": (8, 4), "head": (1,), "scale": ()}
    del stored["layers.0.q.weight"], stored["layers.1.q.weight"]
    assert misfits(LAYERS | {"scale": (2,)}, stored) == [
        "missing 2: layers.0.q.weight, layers.1.q.weight",
        "unexpected 1: head",
        "of another shape 2: layers.3.k.weight (stored 8 x 4, wanted 4 x 8), scale (stored a number, wanted 2)",
    ]


def test_layers_of_another_shape_share_a_note() -> None:
    stored = {name: (4, 9) if ".q." in name else shape for name, shape in LAYERS.items()}
    assert misfits(LAYERS, stored) == ["of another shape 32: layers.{0-31}.q.weight (stored 4 x 9, wanted 4 x 8)"]


def test_names_with_several_numbers_stay_as_they_are() -> None:
    wanted = {f"blocks.{block}.experts.{expert}": (1,) for block in (0, 1) for expert in (0, 1)}
    assert misfits(wanted, {}) == [f"missing 4: {', '.join(sorted(wanted))}"]
