"""Original LLaVA checkpoints: whole models (v1, v1.1, v1.5, v1.6), stage-1 projectors, LoRA folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensmith import Found, Importer, LensmithError, PartFiles, is_hub_id
from lensmith.conversion.foreign import Foreign, locate
from lensmith.conversion.stored import Stored
from lensmith_plugins.formats import llava_config
from lensmith_plugins.formats.adapter_config import tuner_of
from lensmith_plugins.formats.import_parts import NEEDLESS, conversation, language_model, refuse_rest
from lensmith_plugins.formats.import_specs import LlavaImportSpec

PROJECTOR = "mm_projector."
TOWER = "model.vision_tower.vision_tower."
NEWLINE = "model.image_newline"
PROJECTOR_FILE, EXTRAS_FILE = "mm_projector.bin", "non_lora_trainables.bin"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_WRAPPED = re.compile(r"^base_model\.(model\.)?(?=model\.)")


class LlavaImporter(Importer):
    """Reads what the code of haotian-liu/LLaVA writes."""

    spec: LlavaImportSpec

    @classmethod
    def recognise(cls, source: Foreign) -> str:
        """See `Importer.recognise`: by LLaVA's own config keys, and by tensors called `mm_projector.`."""
        adapter = source.json("adapter_config.json")
        if adapter and source.has(EXTRAS_FILE):
            return "an original LLaVA LoRA folder"
        ours = "mm_vision_tower" in source.config
        if source.path.is_dir() and source.has(PROJECTOR_FILE):
            return "an original LLaVA projector"
        if not ours and source.path.is_dir() and source.config.get("text_config"):
            return ""
        names = source.tensors.keys()
        if any(name.endswith("embed_tokens.weight") for name in names) and (
            ours or any(PROJECTOR in name for name in names)
        ):
            return "an original LLaVA model"
        if names and any(PROJECTOR in name for name in names):
            return "an original LLaVA projector"
        return ""

    def read(self, source: Foreign) -> Found:
        """See `Importer.read`."""
        if source.has(EXTRAS_FILE):
            return self._lora(source)
        if source.has(PROJECTOR_FILE) or not any(n.endswith("embed_tokens.weight") for n in source.tensors):
            return self._projector(source)
        return self._whole(source)

    def _whole(self, source: Foreign) -> Found:
        config, rest = source.config, dict(source.tensors)
        model_type = llava_config.decoder_type(config, source.name)
        tower = self._tower(source)
        section = llava_config.encoder(config, tower, self.spec.select_layer, source.name)
        projector, row_end = _bridge(rest)
        held = {n.removeprefix(TOWER): rest.pop(n) for n in list(rest) if n.startswith(TOWER)}
        decoder = {n: rest.pop(n) for n in list(rest) if n == "lm_head.weight" or n.startswith("model.")}
        _refuse_others(source, decoder)
        refuse_rest(source, (n for n in rest if not NEEDLESS.search(n)))
        decoder = {n: t for n, t in decoder.items() if not NEEDLESS.search(n)}
        parts = {
            "language_model": PartFiles(decoder, {"config.json": llava_config.decoder_config(config, model_type)}),
            "connector": PartFiles(projector),
            "image_splitter": PartFiles(row_end),
        }
        notes = [f"language model: {model_type}, {len(decoder)} tensors, held in the artifact"]
        if held:
            parts["vision_encoder"] = _tower_files(held, tower)
            notes.append(f"vision encoder: the weights in the checkpoint, config and preprocessing of {tower}")
        else:
            notes.append(f"vision encoder: the checkpoint has none of its weights, they are those of {tower}")
        return self._found(source, section, parts, language_model(self.spec, source, model_type), notes)

    def _projector(self, source: Foreign) -> Found:
        if self.spec.base is None:
            raise LensmithError(
                f"{source.name} holds a projector alone; say which language model it was trained onto with --base"
            )
        stored = dict(source.read(PROJECTOR_FILE) or source.tensors)
        projector, row_end = _bridge(stored)
        refuse_rest(source, stored)
        section = llava_config.encoder(source.config, self._tower(source), self.spec.select_layer, source.name)
        notes = ["a projector alone: language model and vision encoder are those of their bases"]
        parts = {"connector": PartFiles(projector), "image_splitter": PartFiles(row_end)}
        return self._found(source, section, parts, self._base(source, self.spec.base), notes)

    def _lora(self, source: Foreign) -> Found:
        adapter = source.json("adapter_config.json")
        base = self.spec.base or adapter.get("base_model_name_or_path")
        if not base or not (self.spec.base or Path(base).is_dir()):
            raise LensmithError(
                f"{source.name} holds adapters alone, made on {base or 'a base that it does not name'}, which is not"
                " on this machine; say where that language model is with --base"
            )
        stored = {_WRAPPED.sub("", name): tensor for name, tensor in source.read(EXTRAS_FILE).items()}
        projector, row_end = _bridge(stored)
        refuse_rest(source, stored)
        file = next((name for name in ADAPTER_FILES if source.has(name)), None)
        if file is None:
            raise LensmithError(f"{source.name} has an adapter_config.json and none of {', '.join(ADAPTER_FILES)}")
        adapters = source.read(file)
        if outside := [name for name in adapters if "vision_tower" in name or PROJECTOR in name]:
            raise LensmithError(
                f"{source.name} adapts more than the language model ({outside[0]}, …); its adapters cannot be told"
                " apart here"
            )
        section = llava_config.encoder(source.config, self._tower(source), self.spec.select_layer, source.name)
        parts = {
            "connector": PartFiles(projector),
            "image_splitter": PartFiles(row_end),
            "adapter": PartFiles(adapters, {"adapter_config.json": adapter}),
        }
        tuner = tuner_of(adapter, source.name)
        notes = [f"LoRA of rank {tuner['rank']}, alpha {tuner['alpha']:g}, onto {base}"]
        return self._found(source, section, parts, self._base(source, base), notes, tuner)

    def _base(self, source: Foreign, base: str) -> dict[str, Any]:
        config = locate(base).config
        kind = config.get("model_type")
        if not isinstance(kind, str):
            raise LensmithError(f"{base} is no language model: its config.json names no model_type; set --base")
        return language_model(self.spec, source, kind, base)

    def _found(
        self,
        source: Foreign,
        encoder: Mapping[str, Any],
        parts: Mapping[str, PartFiles],
        decoder: dict[str, Any],
        notes: list[str],
        tuner: Mapping[str, Any] | None = None,
    ) -> Found:
        config = source.config
        names = set(parts["connector"].tensors)
        if "mm_projector_type" in config or (config and names == {"weight", "bias"}) or not names:
            connector = llava_config.connector(config, source.name)
        else:
            connector = llava_config.connector_of(names, source.name)
        spoken, more = conversation(self.spec)
        if llava_config.with_tags(config):
            if self.spec.conversation is None:
                raise LensmithError(
                    f"{source.name} puts <im_start> and <im_end> around each picture (mm_use_im_start_end); say which"
                    " prompt template it was tuned with: conversation=NAME, e.g. llava_v0 or vicuna_v1"
                )
            spoken = {"conversation": {"name": self.spec.conversation, "image_tags": llava_config.TAGS}}
        model = {
            "vision_encoder": dict(encoder),
            "image_splitter": llava_config.splitter(config, source.name),
            "connector": connector,
            "language_model": decoder,
            **spoken,
        }
        if not config:
            more.append("no config.json: pictures are cut square, as in LLaVA's stage 1")
        held = {part: files for part, files in parts.items() if files.tensors}
        return Found(model, held, tuner, [*notes, *more], {"vision_encoder": encoder["checkpoint"]})

    def _tower(self, source: Foreign) -> str:
        """Folder or hub id of the CLIP model.

        Raises:
            LensmithError: it is not here; names the option.
        """
        named = self.spec.vision_encoder or source.config.get("mm_vision_tower")
        if not named:
            raise LensmithError(f"{source.name} does not say which CLIP it was trained on: vision_encoder=FOLDER")
        if not Path(named).is_dir() and not is_hub_id(str(named)):
            raise LensmithError(
                f"{source.name} was trained on the vision encoder {named}, which is not on this machine; say where it"
                " is with vision_encoder=FOLDER"
            )
        return str(named)


def _bridge(tensors: dict[str, Stored]) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """Take the projector's and the splitter's tensors out, by their own names."""
    projector = {n.partition(PROJECTOR)[2]: tensors.pop(n) for n in list(tensors) if PROJECTOR in n}
    row_end = {n.rpartition("image_")[2]: tensors.pop(n) for n in list(tensors) if n.endswith("image_newline")}
    return projector, row_end


def _refuse_others(source: Foreign, decoder: Mapping[str, Stored]) -> None:
    known = re.compile(r"(lm_head|model\.(embed_tokens|norm|layers\.\d+))\.")
    refuse_rest(source, (n for n in decoder if not known.match(n) and not NEEDLESS.search(n)))


def _tower_files(held: Mapping[str, Stored], tower: str) -> PartFiles:
    folder = locate(tower)
    if not folder.config:
        raise LensmithError(f"{tower} has no config.json, which says how the vision encoder is built: vision_encoder=")
    copies = {"preprocessor_config.json": folder.path / "preprocessor_config.json"}
    return PartFiles(
        {n: t for n, t in held.items() if not NEEDLESS.search(n)},
        {"config.json": folder.config},
        {name: path for name, path in copies.items() if path.is_file()},
    )
