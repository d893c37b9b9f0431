"""config.json and the processor's files of the two LLaVA classes of transformers, as 4.x, 5.x and servers read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lensmith.spec.run import ModelSpec
from lensmith_plugins.formats.export_specs import HF_ACTIVATIONS
from lensmith_plugins.formats.import_parts import CLIP_KEYS
from lensmith_plugins.image_splitters.specs import AnyresSpec, PadSpec
from lensmith_plugins.vision_encoders.clip import ClipEncoder
from lensmith_plugins.vision_encoders.siglip import SiglipEncoder
from lensmith_plugins.vision_encoders.transformers_specs import ClipSpec


def is_next(model: ModelSpec) -> bool:
    """Whether it is a LlavaNext."""
    return isinstance(model.image_splitter, AnyresSpec)


def model_config(
    model: ModelSpec, decoder: Mapping[str, Any], blocks: int, image_id: int, pad_id: int, dtype: torch.dtype
) -> dict[str, Any]:
    """The whole config.

    Args:
        model: the parts.
        decoder: the language model's config, its vocabulary as it is written.
        blocks: of the vision tower that are written.
        image_id, pad_id: ids of the image token and of padding.
        dtype: of the weights.
    """
    encoder: Any = model.vision_encoder
    architecture = encoder.architecture()
    layers = architecture["num_hidden_layers"]
    selected = encoder.blocks()
    # Of a trained encoder only the blocks up to the selected layer exist, so that it is the last one there.
    layer = encoder.select_layer if blocks == layers else selected - blocks - 1
    shape = encoder.shape()
    name = str(dtype).removeprefix("torch.")
    clip = isinstance(encoder, ClipSpec)
    vision = {**architecture, "num_hidden_layers": blocks, "dtype": name, "torch_dtype": name}
    vision["model_type"] = "clip_vision_model" if clip else "siglip_vision_model"
    if not clip:
        vision["vision_use_head"] = False  # the pooling, which no feature goes through
    text = {**_plain(decoder), "dtype": name, "torch_dtype": name}
    text.pop("transformers_version", None)
    next_ = is_next(model)
    config: dict[str, Any] = {
        "architectures": ["LlavaNextForConditionalGeneration" if next_ else "LlavaForConditionalGeneration"],
        "model_type": "llava_next" if next_ else "llava",
        "ignore_index": -100,
        "image_token_index": image_id,
        "image_seq_length": shape.tokens,
        "pad_token_id": pad_id,
        "bos_token_id": text.get("bos_token_id"),
        "eos_token_id": text.get("eos_token_id"),
        "projector_hidden_act": HF_ACTIVATIONS[getattr(model.connector, "activation", "gelu")],
        "multimodal_projector_bias": True,
        "vision_feature_layer": layer,
        "vision_feature_select_strategy": _strategy(model),
        "tie_word_embeddings": False,
        "dtype": name,
        "torch_dtype": name,
        "text_config": text,
        "vision_config": vision,
    }
    if next_:
        config |= {"image_grid_pinpoints": _grids(model), "use_image_newline_parameter": True}
    return config


def processor_configs(model: ModelSpec, image_token: str) -> dict[str, dict[str, Any]]:
    """preprocessor_config.json and processor_config.json.

    The number of positions is (height // patch) * (width // patch) + additional tokens, less one where the strategy is
    `default`; so a class token that is dropped counts as additional first.
    """
    encoder: Any = model.vision_encoder
    clip = isinstance(encoder, ClipSpec)
    processor = (ClipEncoder if clip else SiglipEncoder).processor(encoder)
    settings = {key: value for key, value in processor.to_dict().items() if key in CLIP_KEYS and value is not None}
    if is_next(model):
        # Tiles have the view's size already; what stays of a step is its crop, which does nothing.
        view = encoder.shape().image_size[0]
        settings |= {"size": {"shortest_edge": view}, "crop_size": {"height": view, "width": view}}
        settings |= {"image_grid_pinpoints": _grids(model), "do_pad": True}
    elif isinstance(model.image_splitter, PadSpec):
        settings["do_pad"] = True
    names = ("LlavaNextImageProcessor", "LlavaNextProcessor") if is_next(model) else (None, "LlavaProcessor")
    padded = "LlavaImageProcessor" if settings.get("do_pad") else "CLIPImageProcessor"
    kind = names[0] or (padded if clip else "SiglipImageProcessor")
    whole = {
        "processor_class": names[1],
        "patch_size": encoder.architecture()["patch_size"],
        "num_additional_image_tokens": int(clip),
        "vision_feature_select_strategy": _strategy(model),
        "image_token": image_token,
    }
    return {
        "preprocessor_config.json": {**settings, "image_processor_type": kind, "processor_class": names[1]},
        "processor_config.json": whole,
    }


def _strategy(model: ModelSpec) -> str:
    encoder = model.vision_encoder
    return "default" if isinstance(encoder, ClipSpec) and not encoder.cls_token else "full"


def _grids(model: ModelSpec) -> list[list[int]]:
    """[height, width] each, the order that transformers reads."""
    splitter = model.image_splitter
    assert isinstance(splitter, AnyresSpec)
    view = model.vision_encoder.shape()
    assert view is not None
    return [list(canvas) for canvas in splitter.canvases(view.image_size)]


def _plain(decoder: Mapping[str, Any]) -> dict[str, Any]:
    """With the rotary base also where readers before transformers 5 look for it."""
    rope = decoder.get("rope_parameters") or {}
    if "rope_theta" in rope and "rope_theta" not in decoder:
        return {**decoder, "rope_theta": rope["rope_theta"]}
    return dict(decoder)
