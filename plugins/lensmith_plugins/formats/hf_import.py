"""LlavaForConditionalGeneration and LlavaNextForConditionalGeneration, by the names of transformers 4.x and 5.x."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from lensmith import Found, Importer, LensmithError, PartFiles
from lensmith.conversion.foreign import Foreign
from lensmith.conversion.stored import Stored
from lensmith_plugins.formats.import_parts import CLIP_KEYS, NEEDLESS, conversation, language_model, refuse_rest
from lensmith_plugins.formats.import_specs import HfImportSpec
from lensmith_plugins.own_code import code_not_run

_TYPES = {"llava": "a LlavaForConditionalGeneration", "llava_next": "a LlavaNextForConditionalGeneration"}
_RULES: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), part, name)
    for pattern, part, name in (
        (r"(?:language_model\.)?lm_head\.(.*)", "language_model", r"lm_head.\1"),
        (r"language_model\.model\.(.*)", "language_model", r"model.\1"),
        (r"(?:model\.)?language_model\.(.*)", "language_model", r"model.\1"),
        (r"(?:model\.)?vision_tower\.(?:vision_model\.)?(.*)", "vision_encoder", r"vision_model.\1"),
        (r"(?:model\.)?multi_modal_projector\.linear_1\.(.*)", "connector", r"0.\1"),
        (r"(?:model\.)?multi_modal_projector\.linear_2\.(.*)", "connector", r"2.\1"),
        (r"(?:model\.)?image_newline", "image_splitter", "newline"),
    )
)
"""Names in files of any version, the part they belong to and its own name of them; the first that fits counts."""
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu"}
"""Our name of the projector's activation by that of transformers."""
ENCODERS = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}
"""Our encoder by the type of the vision config."""


class HfImporter(Importer):
    """Reads what transformers writes for the two LLaVA classes."""

    spec: HfImportSpec

    @classmethod
    def recognise(cls, source: Foreign) -> str:
        """See `Importer.recognise`: by the model type and the two nested configs."""
        nested = "text_config" in source.config and "vision_config" in source.config
        return _TYPES.get(source.config.get("model_type", ""), "") if nested else ""

    def read(self, source: Foreign) -> Found:
        """See `Importer.read`."""
        with code_not_run(str(source.path)):
            whole = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
        parts: dict[str, dict[str, Stored]] = {"language_model": {}, "vision_encoder": {}, "connector": {}}
        parts["image_splitter"] = {}
        rest = []
        for name, stored in source.tensors.items():
            if NEEDLESS.search(name):
                continue
            place = _place(name)
            if place is None:
                rest.append(name)
            else:
                parts[place[0]][place[1]] = stored
        refuse_rest(source, rest)
        text, vision = decoder_config(whole.text_config), whole.vision_config.to_dict()
        settings = image_settings(source)
        encoder = self._encoder(whole, vision, source)
        files = {
            "language_model": PartFiles(parts["language_model"], {"config.json": text}),
            "vision_encoder": PartFiles(
                parts["vision_encoder"],
                {
                    "config.json": {**vision, "architectures": [_class_of(vision)]},
                    "preprocessor_config.json": {k: v for k, v in settings.items() if k in CLIP_KEYS},
                },
            ),
            "connector": PartFiles(parts["connector"]),
            "image_splitter": PartFiles(parts["image_splitter"]),
        }
        spoken, notes = conversation(self.spec)
        model = {
            "vision_encoder": encoder,
            "image_splitter": self._splitter(whole, settings, source),
            "connector": self._connector(whole, source),
            "language_model": language_model(self.spec, source, text["model_type"]),
            **spoken,
        }
        first = f"language model: {text['model_type']}, vision encoder: {vision['model_type']}, both held in full"
        return Found(model, {part: f for part, f in files.items() if f.tensors}, None, [first, *notes])

    def _encoder(self, whole: Any, vision: Mapping[str, Any], source: Foreign) -> dict[str, Any]:
        name = ENCODERS.get(vision["model_type"])
        if name is None:
            raise LensmithError(
                f"{source.name}: its vision encoder is a {vision['model_type']!r}, of which only"
                f" {' and '.join(ENCODERS)} are imported"
            )
        layer = whole.vision_feature_layer
        if not isinstance(layer, int):
            raise LensmithError(f"{source.name}: vision_feature_layer {layer} joins several layers; Lensmith takes one")
        keeps = whole.vision_feature_select_strategy == "full"
        own = {"cls_token": keeps} if name == "clip" else {}
        if name != "clip" and not keeps:
            raise LensmithError(f"{source.name}: strategy 'default' drops a token that a {name} encoder does not have")
        return {"name": name, "checkpoint": str(source.path), "select_layer": layer, **own}

    def _connector(self, whole: Any, source: Foreign) -> dict[str, Any]:
        if whole.projector_hidden_act not in ACTIVATIONS or not whole.multimodal_projector_bias:
            raise LensmithError(
                f"{source.name}: a projector with activation {whole.projector_hidden_act!r} and bias"
                f" {whole.multimodal_projector_bias} is none that Lensmith has"
            )
        return {"name": "mlp", "depth": 2, "activation": ACTIVATIONS[whole.projector_hidden_act]}

    def _splitter(self, whole: Any, settings: Mapping[str, Any], source: Foreign) -> dict[str, Any]:
        if whole.model_type == "llava_next":
            grids = [[width, height] for height, width in whole.image_grid_pinpoints]
            return {"name": "anyres", "grids": grids, "merge": "spatial_unpad", "rounding": "transformers"}
        return {"name": "pad" if settings.get("do_pad") else "square"}


def _place(name: str) -> tuple[str, str] | None:
    for pattern, part, own in _RULES:
        if found := pattern.fullmatch(name):
            return part, found.expand(own)
    return None


def decoder_config(config: Any) -> dict[str, Any]:
    """The decoder's own config.json."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    plain = config.to_dict()
    return {**plain, "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[plain["model_type"]]]}


def _class_of(vision: Mapping[str, Any]) -> str:
    return {"clip_vision_model": "CLIPVisionModel", "siglip_vision_model": "SiglipVisionModel"}.get(
        vision["model_type"], ""
    )


def image_settings(source: Foreign) -> dict[str, Any]:
    """Of the file of its own that 4.x writes, or within processor_config.json of 5.x."""
    settings = source.json("preprocessor_config.json") or source.json("processor_config.json").get("image_processor")
    if not settings:
        raise LensmithError(
            f"{source.name} has no preprocessor_config.json, which says whether pictures are padded or cropped; get it"
            " with the checkpoint"
        )
    return dict(settings)
