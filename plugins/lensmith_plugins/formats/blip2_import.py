"""BLIP-2 and InstructBLIP: encoder, Q-Former with its projection, and a language model that only decodes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from lensmith import Found, Importer, LensmithError, PartFiles
from lensmith.conversion.foreign import Foreign
from lensmith.conversion.stored import Stored
from lensmith_plugins.connectors.qformer_config import read_architecture, whole_config
from lensmith_plugins.connectors.qformer_spec import TOKENIZER
from lensmith_plugins.formats.hf_import import decoder_config, image_settings
from lensmith_plugins.formats.import_parts import CLIP_KEYS, NEEDLESS, conversation, language_model, refuse_rest
from lensmith_plugins.formats.import_specs import BlipImportSpec
from lensmith_plugins.own_code import code_not_run

_TYPES = {"blip-2": "a BLIP-2 model", "instructblip": "an InstructBLIP model"}
_WHOLE = re.compile(r"(query_tokens|qformer\.|language_projection\.)")
_TEXT = re.compile(r"qformer\.(embeddings\.(word|position)_embeddings|encoder\.layer\.(\d+)\.(intermediate|output))\.")
"""What the Q-Former reads its text with; BLIP-2's reads none, and nobody reads what the last layer makes of it."""


class BlipImporter(Importer):
    """Reads Blip2ForConditionalGeneration and InstructBlipForConditionalGeneration."""

    spec: BlipImportSpec

    @classmethod
    def recognise(cls, source: Foreign) -> str:
        """See `Importer.recognise`: by the model type and its three nested configs."""
        nested = all(f"{part}_config" in source.config for part in ("vision", "qformer", "text"))
        return _TYPES.get(source.config.get("model_type", ""), "") if nested else ""

    def read(self, source: Foreign) -> Found:
        """See `Importer.read`."""
        with code_not_run(str(source.path)):
            whole = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
        if whole.text_config.is_encoder_decoder:
            raise LensmithError(
                f"{source.name}: its language model is a {whole.text_config.model_type!r}, an encoder and a decoder;"
                " Lensmith's language models only decode (take the one with OPT or Vicuna)"
            )
        architecture = read_architecture(str(source.path))
        encoder: dict[str, Stored] = {}
        decoder: dict[str, Stored] = {}
        bridge: dict[str, Stored] = {}
        rest = []
        for full, stored in source.tensors.items():
            name = full.removeprefix("model.")
            if NEEDLESS.search(name):
                continue
            if name.startswith("vision_model.post_layernorm."):
                bridge[name.replace("vision_model.post_layernorm.", "norm.")] = stored
            elif name.startswith("vision_model."):
                encoder[name.removeprefix("vision_model.")] = stored
            elif _WHOLE.match(name):
                if (own := _qformer_name(name, architecture.instruction, architecture.layers)) is not None:
                    bridge[own] = stored
            elif name.startswith("language_model."):
                decoder[name.removeprefix("language_model.")] = stored
            else:
                rest.append(full)
        refuse_rest(source, rest)
        settings = image_settings(source)
        vision = {**whole.vision_config.to_dict(), "model_type": "blip_2_vision_model"}
        parts = {
            "vision_encoder": PartFiles(
                encoder,
                {
                    "config.json": {**vision, "architectures": ["Blip2VisionModel"]},
                    "preprocessor_config.json": {k: v for k, v in settings.items() if k in CLIP_KEYS},
                },
            ),
            "connector": PartFiles(bridge, {"config.json": whole_config(architecture)}, self._tokenizer(source)),
            "language_model": PartFiles(decoder, {"config.json": decoder_config(whole.text_config)}),
        }
        model_type = whole.text_config.model_type
        spoken, notes = conversation(self.spec)
        model: dict[str, Any] = {
            "vision_encoder": {"name": "blip2", "checkpoint": str(source.path), "select_layer": -1, "cls_token": True},
            "image_splitter": "square",
            "connector": {"name": "qformer", "config": str(source.path)},
            "language_model": language_model(self.spec, source, model_type),
            **spoken,
        }
        first = f"encoder, Q-Former of {architecture.queries} queries and language model {model_type}, all held in full"
        reads = "the Q-Former reads the question too" if architecture.instruction else "the Q-Former reads no question"
        return Found(model, parts, None, [first, reads, *notes])

    def _tokenizer(self, source: Foreign) -> Mapping[str, Any]:
        folder = source.path / TOKENIZER
        return {f"{TOKENIZER}/{file.name}": file for file in sorted(folder.iterdir())} if folder.is_dir() else {}


def _qformer_name(name: str, instruction: bool, layers: int) -> str | None:
    """The connector's name of a tensor; None for one that it leaves out."""
    text = _TEXT.match(name)
    if text and (not instruction or text[3] == str(layers - 1)):
        return None
    return name if instruction else name.replace("qformer.embeddings.layernorm.", "qformer.layernorm.")
