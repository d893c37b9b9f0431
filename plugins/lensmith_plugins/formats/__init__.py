"""Formats: checkpoints of other projects in, files for other software out."""

from __future__ import annotations

from collections.abc import Iterable

from lensmith import Component, Kind, hookimpl

api_version = 1

_HERE = "lensmith_plugins.formats"


@hookimpl
def lensmith_components() -> Iterable[Component]:
    """The importers and exporters of this package."""
    return [
        Component(
            kind=Kind.IMPORTER,
            name="llava",
            spec=f"{_HERE}.import_specs:LlavaImportSpec",
            implementation=f"{_HERE}.llava_import:LlavaImporter",
            summary="original LLaVA: whole models, mm_projector.bin, LoRA folders",
            paper="LLaVA (Liu et al. 2023, arXiv 2304.08485) and LLaVA-1.5 (arXiv 2310.03744), their code",
            example="name: llava\nbase: lmsys/vicuna-7b-v1.5\n",
        ),
        Component(
            kind=Kind.IMPORTER,
            name="hf",
            spec=f"{_HERE}.import_specs:HfImportSpec",
            implementation=f"{_HERE}.hf_import:HfImporter",
            summary="transformers' LlavaForConditionalGeneration and LlavaNextForConditionalGeneration",
            paper="transformers (Wolf et al. 2020, arXiv 1910.03771)",
            example="name: hf\nconversation: vicuna_v1\n",
        ),
        Component(
            kind=Kind.IMPORTER,
            name="blip2",
            spec=f"{_HERE}.import_specs:BlipImportSpec",
            implementation=f"{_HERE}.blip2_import:BlipImporter",
            summary="transformers' BLIP-2 and InstructBLIP with a decoder (OPT, Vicuna)",
            paper="BLIP-2 (Li et al. 2023, arXiv 2301.12597); InstructBLIP (Dai et al. 2023, arXiv 2305.06500)",
            example="name: blip2\nconversation: plain\n",
        ),
        Component(
            kind=Kind.EXPORTER,
            name="hf",
            spec=f"{_HERE}.export_specs:HfExportSpec",
            implementation=f"{_HERE}.hf_export:HfExporter",
            summary="transformers' LLaVA classes with their processor, as servers load them",
            paper="transformers (Wolf et al. 2020, arXiv 1910.03771)",
            example="name: hf\nimage_token: <image>\n",
        ),
        Component(
            kind=Kind.EXPORTER,
            name="llava",
            spec=f"{_HERE}.export_specs:LlavaExportSpec",
            implementation=f"{_HERE}.llava_export:LlavaExporter",
            summary="the original LLaVA's layout: a whole model, or with adapters its LoRA folder",
            paper="LLaVA (Liu et al. 2023, arXiv 2304.08485) and LLaVA-1.5 (arXiv 2310.03744), their code",
            example="name: llava\nvision_tower: openai/clip-vit-large-patch14-336\n",
        ),
        Component(
            kind=Kind.EXPORTER,
            name="peft",
            spec=f"{_HERE}.export_specs:PeftExportSpec",
            implementation=f"{_HERE}.peft_export:PeftExporter",
            summary="the adapters of the language model alone, for PEFT",
            paper="PEFT (Mangrulkar et al. 2022), the library",
            example="name: peft\n",
        ),
    ]
