"""Grouping by modality and length against the original's samplers, draw by draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lensmith.data.order import even_chunks, group_by_length, group_by_modality, modality_length


@pytest.fixture(scope="module")
def stored(shared: Path) -> dict[str, Any]:
    return dict(json.loads((shared / "golden" / "sampler" / "sampler.json").read_text()))


@pytest.mark.parametrize("by_modality", [True, False], ids=["modality", "length"])
def test_orders_are_the_originals(stored: dict[str, Any], by_modality: bool) -> None:
    """As the original's trainer calls them: all draws from one generator.

    Given a generator of its own, the original's grouping by modality draws from it and from the global one in turn;
    its trainer never gives one, so those records are left out.
    """
    compared = 0
    for record in stored["records"]:
        if record["group_by_modality"] is not by_modality:
            continue
        lengths = stored["lists"][record["list"]]
        if not by_modality:
            lengths = [abs(length) for length in lengths]
        group = group_by_modality if by_modality else group_by_length
        for kind in ("global_rng", "with_generator"):
            generator = torch.Generator().manual_seed(record["seed"])
            if kind == "with_generator" and by_modality:
                continue
            order = group(lengths, record["batch_size"], record["world_size"], generator)
            assert order == record[kind], (record["list"], record["batch_size"], record["world_size"], kind)
            compared += 1
    assert compared > 100


def test_chunks_are_the_originals(stored: dict[str, Any]) -> None:
    for case in stored["split_to_even_chunks"]:
        assert even_chunks(case["indices"], case["lengths"], case["num_chunks"]) == case["out"]


def test_a_row_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="length of 0"):
        group_by_modality([3, 0, -2], 1, 1, torch.Generator())


def test_lengths_are_the_originals(stored: dict[str, Any]) -> None:
    cases = stored["dataset_lengths"]
    assert [modality_length(row) for row in cases["samples"]] == cases["modality_lengths"]
