"""Closed-form tables against the modules themselves, built on the meta device: every name, every shape, every total."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lensmith.dims import join
from lensmith.interfaces.loading import Loading
from lensmith.parts import implementation
from lensmith.planning import plan
from lensmith.spec import load_spec
from lensmith_registry import Kind

MLP = {"name": "mlp", "depth": 2}


def _built(model: Any) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes by part and name, from the real modules; transformers decides what a language model is made of."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        encoder = implementation(Kind.VISION_ENCODER, model.vision_encoder).build(
            model.vision_encoder, Loading(weights=False)
        )
        config = AutoConfig.from_pretrained(model.language_model.config)
        language_model = torch.nn.ModuleDict({"network": AutoModelForCausalLM.from_config(config)})
        width = config.hidden_size
        connector = implementation(Kind.CONNECTOR, model.connector).build(model.connector, encoder.shape, width)
        splitter = implementation(Kind.IMAGE_SPLITTER, model.image_splitter).build(model.image_splitter, width)
    parts = {
        "vision_encoder": encoder,
        "image_splitter": splitter,
        "connector": connector,
        "language_model": language_model,
    }
    return {part: {name: tuple(p.shape) for name, p in module.named_parameters()} for part, module in parts.items()}


@pytest.mark.parametrize(
    ("size", "connector", "total"),
    [
        ("7b", MLP, 7_050_304_512),
        ("13b", MLP, 13_338_241_024),
        ("33b", "linear", 32_826_675_200),
        ("65b", "linear", 65_584_966_656),
        ("65b", MLP, 65_652_083_712),
    ],
)
def test_a_plan_lists_the_tensors_that_are_built(size: str, connector: Any, total: int, llava: Any) -> None:
    spec = load_spec({"model": llava(size, connector)})
    tables = join(spec.model).parameters()
    assert {part: {p.name: p.shape for p in table} for part, table in tables.items()} == _built(spec.model)
    assert plan(spec).total_parameters == total


@pytest.mark.parametrize("connector", ["linear", MLP, {"name": "mlp", "depth": 3, "input_norm": True}])
@pytest.mark.parametrize("tied", [False, True])
def test_so_does_a_plan_of_tiny_parts(connector: Any, tied: bool, tmp_path: Path) -> None:
    encoder = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    encoder |= {"num_attention_heads": 4, "image_size": 28, "patch_size": 14}
    language = {"model_type": "llama", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
    language |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 70, "tie_word_embeddings": tied}
    (tmp_path / "encoder.json").write_text(json.dumps(encoder))
    (tmp_path / "language.json").write_text(json.dumps(language))
    model = {
        "vision_encoder": {"name": "clip", "config": str(tmp_path / "encoder.json")},
        "image_splitter": "pad",
        "connector": connector,
        "language_model": {"name": "llama", "config": str(tmp_path / "language.json")},
    }
    spec = load_spec({"model": model})
    tables = join(spec.model).parameters()
    assert {part: {p.name: p.shape for p in table} for part, table in tables.items()} == _built(spec.model)


@pytest.mark.parametrize(("size", "total"), [("7b", 7_063_427_072), ("13b", 13_351_494_656), ("65b", 65_665_730_560)])
def test_the_converted_checkpoints_of_transformers_have_a_few_tensors_more(
    size: str, total: int, llava: Any, configs: Path
) -> None:
    """They keep all 24 blocks and CLIP's final norm (2 x 1,024), which no feature passes, and pad the vocabulary."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    data = llava(size, MLP, vocabulary=32064, select_layer=-1)
    text = LlamaConfig.from_pretrained(data["language_model"]["config"])
    vision = CLIPVisionConfig.from_pretrained(configs / "clip-vit-large-patch14-336.json")
    with torch.device("meta"):
        network = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision))
    assert sum(p.numel() for p in network.parameters()) == total
    assert plan({"model": data}).total_parameters + 2 * 1024 == total
