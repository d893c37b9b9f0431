"""A folder that plain transformers, and the servers that read its layout, load with its processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)

from lensmith import Exporter, LensmithError
from lensmith.conversion.held import Held
from lensmith.conversion.probes import Probe
from lensmith.conversion.stored import Stored, write_weights
from lensmith.files import write_json
from lensmith.model import MultimodalModel
from lensmith.parts import conversation, tokenizer
from lensmith.spec.run import ModelSpec
from lensmith_plugins.compat.quiet import quiet
from lensmith_plugins.formats.base_weights import decoder, tower
from lensmith_plugins.formats.chat_template import derive
from lensmith_plugins.formats.export_specs import HfExportSpec
from lensmith_plugins.formats.hf_chat_template import write_template
from lensmith_plugins.formats.hf_config import is_next, model_config, processor_configs
from lensmith_plugins.formats.hf_tokenizer_files import TokenizerFiles, tokenizer_files
from lensmith_plugins.formats.vocabulary_rows import grown
from lensmith_plugins.image_splitters.specs import AnyresSpec
from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer

_LAYERS = {"0": "multi_modal_projector.linear_1", "2": "multi_modal_projector.linear_2"}
_GREY_LEVELS = 0.06
"""How far normalised pixels may be apart where Pillow resizes otherwise than the installed one: two grey levels."""


class HfExporter(Exporter):
    """Writes LlavaForConditionalGeneration or LlavaNextForConditionalGeneration by the names of transformers 4.x,
    which every version and server since reads."""

    spec: HfExportSpec

    def write(self, held: Held, folder: Path) -> Sequence[str]:
        """See `Exporter.write`."""
        model = held.spec
        own = tokenizer(model)
        assert isinstance(own, HfTokenizer)
        kind = "LlavaNextProcessor" if is_next(model) else "LlavaProcessor"
        files = tokenizer_files(own, self.spec.image_token, kind)
        weights, config = decoder(held)
        vision, blocks = tower(held)
        rows = weights["model.embed_tokens.weight"].shape[0]
        notes = []
        if notes_of := _rounds_otherwise(model):
            notes.append(notes_of)
        if files.length > rows:
            step = self.spec.vocabulary_multiple
            grow = -(-files.length // step) * step
            notes.append(
                f"vocabulary {rows} -> {grow}: {self.spec.image_token} is {files.image_id}, the new rows means"
            )
            rows = grow
        tensors = {f"language_model.{name}": stored for name, stored in weights.items()}
        for table in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            tensors[table] = grown(tensors[table], rows)
        tensors |= {f"vision_tower.vision_model.{name}": stored for name, stored in vision.items()}
        tensors |= _final_norm(vision, held.dtype)
        for name, stored in held.small("connector").items():
            place, _, leaf = name.partition(".")
            tensors[f"{_LAYERS[place]}.{leaf}"] = stored.to(held.dtype)
        for stored in held.small("image_splitter").values():
            tensors["image_newline"] = stored.to(held.dtype)
        write_weights(folder, tensors)
        whole = model_config(model, {**config, "vocab_size": rows}, blocks, files.image_id, files.pad_id, held.dtype)
        write_json(folder / "config.json", whole)
        ids = {key: whole[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
        for name, settings in processor_configs(model, self.spec.image_token).items():
            write_json(folder / name, settings)
        files.write(folder, own.source)
        return [*notes, *self._template(held, own, folder, files)]

    def _template(self, held: Held, own: HfTokenizer, folder: Path, files: TokenizerFiles) -> list[str]:
        """Write the chat template, once it makes the ids of `lensmith serve`."""
        spoken = conversation(held.spec).bind(own)
        if (words := derive(spoken, own)) is None:
            name = getattr(held.spec.conversation, "name", "")
            return [f"no chat template: the conversation {name!r} is not one of fixed words around turns"]
        write_template(folder, words, spoken, own, self.spec.image_token, files)
        return []

    def as_written(self, model: MultimodalModel) -> MultimodalModel:
        """See `Exporter.as_written`: transformers rounds before it unpads."""
        splitter = model.pictures.splitter_spec
        if isinstance(splitter, AnyresSpec):
            model.pictures.splitter_spec = splitter.model_copy(update={"rounding": "transformers"})
        return model

    def logits(self, held: Held, folder: Path, probes: Sequence[Probe]) -> list[Tensor]:
        """Through plain transformers: processor and model of the folder. See `Exporter.logits`."""
        kind: Any = LlavaNextForConditionalGeneration if is_next(held.spec) else LlavaForConditionalGeneration
        with quiet():
            processor = AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
            model, report = kind.from_pretrained(
                folder, dtype=held.dtype, output_loading_info=True, trust_remote_code=False
            )
        if wrong := sorted(map(str, [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]])):
            raise LensmithError(f"transformers does not load what was written: {', '.join(wrong[:6])}")
        model.eval()
        found = []
        for probe in probes:
            inputs = self._inputs(processor, probe, model.config.image_token_id)
            with torch.inference_mode():
                found.append(model(**inputs, logits_to_keep=0).logits[0].float())
        return found

    def _inputs(self, processor: Any, probe: Probe, image_id: int) -> Mapping[str, Any]:
        """What the processor makes of a prompt, once it is what the artifact's model reads."""
        text = probe.prompt.replace("<image>", self.spec.image_token)
        made = processor(text=text, images=list(probe.pictures) or None, return_tensors="pt")
        expected = torch.tensor(probe.sample.ids)
        expected[list(probe.sample.image_positions)] = image_id
        ids = made["input_ids"][0]
        if not torch.equal(ids, expected):
            at = next((i for i, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]), -1)
            raise LensmithError(
                f"its processor makes {len(ids)} ids of a prompt, the artifact's tokenizer {len(expected)}; they differ"
                f" from position {at} ({ids[at : at + 4].tolist()}, not {expected[at : at + 4].tolist()})"
            )
        if probe.pictures:
            pixels, wanted = made["pixel_values"].flatten(0, -4), probe.sample.pictures[0].pixels
            if pixels.shape != wanted.shape or (pixels - wanted).abs().max() > _GREY_LEVELS:
                raise LensmithError(
                    f"its processor makes pixels {tuple(pixels.shape)}, the artifact's encoder and splitter"
                    f" {tuple(wanted.shape)}, or others of that shape"
                )
            levels = (pixels - wanted).abs().max() * 255 * float(max(processor.image_processor.image_std))
            self.pixels = max(self.pixels, float(levels))
            # Logits are about the weights: both sides see the artifact's pixels.
            made["pixel_values"] = wanted.reshape(made["pixel_values"].shape).to(made["pixel_values"].dtype)
        return dict(made)


def _rounds_otherwise(model: ModelSpec) -> str:
    """Of a splitter whose rule transformers does not have."""
    splitter = model.image_splitter
    if not isinstance(splitter, AnyresSpec) or splitter.rounding == "transformers":
        return ""
    return (
        "transformers and vLLM round before they cut off padding: pictures of a few sizes (at 336 px, 88 wide and 99"
        " high is one) take another number of positions there; train with image_splitter.rounding=transformers for none"
    )


def _final_norm(vision: Mapping[str, Stored], dtype: torch.dtype) -> dict[str, Stored]:
    """The norm past the last block, which no feature goes through; an encoder that was trained has none."""
    missing = {}
    for leaf, fill in (("weight", torch.ones), ("bias", torch.zeros)):
        if f"post_layernorm.{leaf}" not in vision:
            width = vision["embeddings.patch_embedding.weight"].shape[0]
            missing[f"vision_tower.vision_model.post_layernorm.{leaf}"] = Stored.of(fill(width, dtype=dtype))
    return missing
