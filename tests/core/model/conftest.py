"""One assembled model for the folder, and samples of its own rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from lensmith.assembly import assemble
from lensmith.data.rows import parse_row
from lensmith.data.sample import Sample, encode_row, expand
from lensmith.model import MultimodalModel

Row = Callable[..., Sample]


@pytest.fixture(scope="session")
def shared_model(model_spec: dict[str, Any]) -> MultimodalModel:
    return assemble({"model": model_spec})


@pytest.fixture
def model(shared_model: MultimodalModel) -> MultimodalModel:
    """The shared model, everything trainable, no gradients."""
    shared_model.requires_grad_(True).train()
    shared_model.zero_grad(set_to_none=True)
    return shared_model


@pytest.fixture
def row(model: MultimodalModel) -> Row:
    """A sample from messages and colours of its pictures."""

    def make(*texts: str, colors: tuple[str, ...] = (), name: str = "row") -> Sample:
        images = [f"{color}.png" for color in colors]
        messages = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
        parsed = parse_row({"id": name, "image": images, "conversations": messages}, number=0)
        tokenizer = model.language_model.tokenizer
        pictures = [model.pictures.prepare(Image.new("RGB", (40, 24), color)) for color in colors]
        return expand(name, encode_row(parsed, model.conversation, tokenizer), pictures, tokenizer.pad_id)

    return make
