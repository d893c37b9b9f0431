"""The layout of the original LLaVA: one folder with everything, or a LoRA folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lensmith import Exporter, LensmithError
from lensmith.conversion.held import Held
from lensmith.conversion.probes import Probe
from lensmith.conversion.stored import Stored, read, read_all, weight_files, write_weights
from lensmith.files import write_json
from lensmith.io.json import read_object
from lensmith.merging import logits
from lensmith_plugins.compat.quiet import quiet
from lensmith_plugins.connectors.specs import IdentitySpec, LinearSpec
from lensmith_plugins.formats.adapters import adapted_model, copy_adapters
from lensmith_plugins.formats.base_weights import decoder, tower
from lensmith_plugins.formats.export_specs import LlavaExportSpec, wears_adapters
from lensmith_plugins.formats.llava_config import DECODERS
from lensmith_plugins.formats.llava_import import EXTRAS_FILE, NEWLINE, PROJECTOR, TOWER
from lensmith_plugins.formats.slow_tokenizer import slow_tokenizer
from lensmith_plugins.image_splitters.specs import AnyresSpec, PadSpec
from lensmith_plugins.vision_encoders.transformers_specs import ClipSpec

if TYPE_CHECKING:
    from lensmith.model import MultimodalModel

_CLASSES = {"llama": "LlavaLlamaForCausalLM", "mistral": "LlavaMistralForCausalLM"}


class LlavaExporter(Exporter):
    """Writes what the loader of haotian-liu/LLaVA reads."""

    spec: LlavaExportSpec

    def write(self, held: Held, folder: Path) -> Sequence[str]:
        """See `Exporter.write`."""
        bridge = {f"model.{PROJECTOR}{name}": stored for name, stored in held.small("connector").items()}
        for stored in held.small("image_splitter").values():
            bridge[NEWLINE] = stored
        notes = slow_tokenizer(held.folder / "tokenizer", folder)
        if wears_adapters(held.tuner):
            return [*self._lora(held, folder, bridge), *notes]
        tensors, config = decoder(held)
        tensors |= {name: stored.to(held.dtype) for name, stored in bridge.items()}
        whole = held.holds("vision_encoder")
        if whole:
            vision, _ = tower(held)
            tensors |= {f"{TOWER}vision_model.{name}": stored for name, stored in vision.items()}
        write_weights(folder, tensors)
        write_json(folder / "config.json", self._config(held, config, tower_inside=whole))
        place = self._tower(held)
        told = f"its loader takes the vision encoder from {place}"
        return [told + (" and its weights from the folder" if whole else ""), *notes]

    def _lora(self, held: Held, folder: Path, bridge: Mapping[str, Stored]) -> Sequence[str]:
        language: Any = held.spec.language_model
        copy_adapters(held, folder)
        extras = {f"base_model.model.{name}": stored.load().clone() for name, stored in bridge.items()}
        torch.save(extras, folder / EXTRAS_FILE)
        write_json(folder / "config.json", self._config(held, language.read_config(), tower_inside=False))
        return [f"a LoRA folder for the base {held.recorded('language_model', 'checkpoint')}"]

    def _config(self, held: Held, decoder: Mapping[str, Any], *, tower_inside: bool) -> dict[str, Any]:
        model = held.spec
        encoder, splitter, connector = model.vision_encoder, model.image_splitter, model.connector
        assert isinstance(encoder, ClipSpec)
        kind = decoder["model_type"]
        shape = encoder.shape()
        name = str(held.dtype).removeprefix("torch.")
        own: dict[str, Any] = {
            "model_type": next(theirs for theirs, ours in reversed(DECODERS.items()) if ours == kind),
            "architectures": [_CLASSES[kind]],
            "mm_vision_tower": self._tower(held),
            "mm_hidden_size": shape.width,
            "mm_projector_type": _projector_type(connector),
            "mm_vision_select_layer": encoder.select_layer,
            "mm_vision_select_feature": "cls_patch" if encoder.cls_token else "patch",
            "mm_patch_merge_type": splitter.merge if isinstance(splitter, AnyresSpec) else "flat",
            "mm_use_im_start_end": getattr(model.conversation, "image_tags", None) is not None,
            "mm_use_im_patch_token": False,
            "use_mm_proj": True,
            "image_aspect_ratio": "pad" if isinstance(splitter, PadSpec) else "square",
            "tune_mm_mlp_adapter": False,
            "freeze_mm_mlp_adapter": False,
            "tokenizer_padding_side": "right",
            "torch_dtype": name,
        }
        if isinstance(splitter, AnyresSpec):
            own["image_aspect_ratio"] = "anyres"
            own["image_grid_pinpoints"] = [[w, h] for h, w in splitter.canvases(shape.image_size)]
        if tower_inside:
            own["unfreeze_mm_vision_tower"] = True  # else its loader passes over the weights in the folder
        return {**decoder, **own}

    def _tower(self, held: Held) -> str:
        return str(self.spec.vision_tower or held.base("vision_encoder"))

    def logits(self, held: Held, folder: Path, probes: Sequence[Probe]) -> list[Tensor]:
        """With the decoder as plain transformers loads it, and every other tensor from the files.

        See `Exporter.logits`.
        """
        with quiet():
            if wears_adapters(held.tuner):
                model, stored = adapted_model(held, folder), read(folder / EXTRAS_FILE)
                stored = {name.removeprefix("base_model.model."): tensor for name, tensor in stored.items()}
            else:
                model, stored = held.model(), read_all(weight_files(folder))
                model.language_model.network = self._decoder(held, folder)
        _fill(model, "connector", {n.partition(PROJECTOR)[2]: t for n, t in stored.items() if PROJECTOR in n})
        _fill(model, "image_splitter", {"newline": stored[NEWLINE]} if NEWLINE in stored else {})
        vision = {n.removeprefix(f"{TOWER}vision_model."): t for n, t in stored.items() if n.startswith(TOWER)}
        if vision:
            used = model.vision_encoder.state_dict()
            _fill(model, "vision_encoder", {f"network.{n}": t for n, t in vision.items() if f"network.{n}" in used})
        return logits(model.eval(), [probe.sample for probe in probes])

    def _decoder(self, held: Held, folder: Path) -> Any:
        """The language model of the folder, by its config without what is LLaVA's own."""
        config = AutoConfig.for_model(**{**_json(folder), "model_type": DECODERS[_json(folder)["model_type"]]})
        network, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=held.dtype, output_loading_info=True, trust_remote_code=False
        )
        if report["missing_keys"] or report["mismatched_keys"]:
            wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
            raise LensmithError(f"what was written is no whole decoder: {', '.join(wrong[:6])}")
        return network


def _projector_type(connector: Any) -> str:
    if isinstance(connector, IdentitySpec):
        return "identity"
    return "linear" if isinstance(connector, LinearSpec) else f"mlp{connector.depth}x_gelu"


def _json(folder: Path) -> dict[str, Any]:
    return read_object(folder / "config.json", nonfinite=True)


def _fill(model: MultimodalModel, part: str, stored: Mapping[str, Stored]) -> None:
    """Put tensors of the files in the place of a part's.

    Raises:
        LensmithError: other tensors than the part has.
    """
    module = getattr(model, part)
    own = module.state_dict()
    if own.keys() != stored.keys():
        raise LensmithError(
            f"the {part} was written as {', '.join(sorted(stored)) or 'nothing'}, it is {', '.join(sorted(own))}"
        )
    module.load_state_dict({n: t.load().to(own[n].dtype) for n, t in stored.items()}, assign=True)
