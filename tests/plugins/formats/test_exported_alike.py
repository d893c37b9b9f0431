"""What an export compares, and what it can write: tied embeddings, rules that differ in a few sizes, pixels apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

import lensmith
from lensmith import ConnectorShape, VisionShape
from lensmith_plugins.image_splitters.canvas import unpadded
from lensmith_plugins.image_splitters.specs import AnyresSpec

GRIDS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
LLAVA_16 = VisionShape(image_size=(336, 336), channels=3, width=1024, grid=(24, 24))


def tied(folder: Path, tiny: Path, *, spare: int = 0) -> Path:
    """A LLaMA whose head is its embeddings, with rows that no token has."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny)
    config.tie_word_embeddings = True
    config.vocab_size += spare
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("held", [False, True], ids=["of a base", "held by the artifact"])
@pytest.mark.parametrize("spare", [0, 64])
@pytest.mark.parametrize("to", ["llava", "hf"])
def test_E1_tied_embeddings_are_exported(
    tiny_encoder: Path, tiny_language_model: Path, tmp_path: Path, to: str, spare: int, held: bool
) -> None:
    decoder = tied(tmp_path / "decoder", tiny_language_model, spare=spare)
    spec = {
        "model": {
            "vision_encoder": {"name": "clip", "checkpoint": str(tiny_encoder)},
            "image_splitter": "square",
            "connector": "mlp",
            "language_model": {"name": "llama", "checkpoint": str(decoder)},
            "conversation": "chatml",
        }
    }
    model = lensmith.assemble(spec)
    if held:
        model.changed.add("language_model")
    artifact = model.save(tmp_path / "artifact")
    assert lensmith.export(artifact, tmp_path / "out", to=to, dry_run=True) is None
    assert not (tmp_path / "out").exists()
    done = lensmith.export(artifact, tmp_path / "out", to=to)
    assert done is not None
    assert done.difference < 1e-5
    with pytest.raises(lensmith.ArtifactError, match="exists already"):
        lensmith.export(artifact, tmp_path / "out", to=to, dry_run=True)


@pytest.mark.parametrize(
    ("rounding", "tokens"),
    [("original", 1226), ("transformers", 1276)],
)
def test_E14_the_picture_of_88_by_99(rounding: str, tokens: int) -> None:
    spec = AnyresSpec(rounding=rounding)  # type: ignore[call-arg]
    connector = ConnectorShape(tokens=576, width=64, grid=(24, 24))
    assert spec.layout((99, 88), LLAVA_16, connector).tokens == tokens
    for height, width in spec.telling_sizes(LLAVA_16, connector):
        other = AnyresSpec(rounding="transformers" if rounding == "original" else "original")
        counts = [one.layout((height, width), LLAVA_16, connector).tokens for one in (spec, other)]
        assert counts[0] != counts[1]
        break
    else:
        pytest.fail("no size tells them apart")


def test_E14_the_rule_of_transformers_is_theirs() -> None:
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    for rows, columns in ((48, 48), (24, 48), (48, 24), (72, 24), (24, 72)):
        grid = torch.zeros(1, rows, columns)
        for size in ((99, 88), (88, 99), (336, 672), (1000, 37), (480, 640), (490, 343), (63, 77), (7, 300)):
            top, left, bottom, right = unpadded(size, (rows, columns), 7)
            assert tuple(unpad_image(grid, size).shape[1:]) == (bottom - top, right - left)


@pytest.mark.parametrize("rounding", ["original", "transformers"])
def test_E14_an_export_asks_a_size_that_tells_the_rules_apart(original: Any, tmp_path: Path, rounding: str) -> None:
    changes = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": GRIDS, "mm_patch_merge_type": "spatial_unpad"}
    artifact = lensmith.import_checkpoint(original(**changes), tmp_path / "artifact").folder
    if rounding == "transformers":
        lensmith.export(artifact, tmp_path / "first", to="hf")
        artifact = lensmith.import_checkpoint(tmp_path / "first", tmp_path / "again").folder
    model = lensmith.load(artifact)
    splitter = model.pictures.splitter_spec
    assert splitter.rounding == rounding  # type: ignore[attr-defined]
    sizes = splitter.telling_sizes(model.pictures.encoder, model.pictures.connector)
    done = lensmith.export(artifact, tmp_path / "hf", to="hf")
    assert done is not None
    assert any("rounding=transformers" in note for note in done.notes) == (rounding == "original")
    processor = AutoProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    for height, width in sizes:
        noise = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8).numpy()
        made = processor(text="<image>", images=lensmith.decode_image(noise), return_tensors="pt")
        theirs = int((made["input_ids"] == processor.image_token_id).sum())
        assert (theirs == model.pictures.layout(height, width).tokens) == (rounding == "transformers")


def test_E12_pixels_are_compared_apart_from_logits(
    original: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that resizes one grey level otherwise is told, and does not count as other weights."""
    from lensmith_plugins.formats.hf_export import HfExporter

    changes = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": GRIDS, "mm_patch_merge_type": "spatial_unpad"}
    artifact = lensmith.import_checkpoint(original(**changes), tmp_path / "artifact").folder
    inputs = HfExporter._inputs

    def moved(by: float) -> None:
        def patched(self: Any, processor: Any, probe: Any, image_id: int) -> Any:
            def otherwise(*args: Any, **named: Any) -> Any:
                made = processor(*args, **named)
                if "pixel_values" in made:
                    made["pixel_values"] = made["pixel_values"] + by
                return made

            otherwise.image_processor = processor.image_processor  # type: ignore[attr-defined]
            return inputs(self, otherwise, probe, image_id)

        monkeypatch.setattr(HfExporter, "_inputs", patched)

    as_it_is = lensmith.export(artifact, tmp_path / "as_it_is", to="hf")
    assert as_it_is is not None
    assert as_it_is.pixels < 2.5  # where the installed Pillow rounds otherwise
    moved(0.015)  # about one grey level
    done = lensmith.export(artifact, tmp_path / "hf", to="hf")
    assert done is not None
    assert done.difference < 1e-5
    assert done.pixels - as_it_is.pixels == pytest.approx(1, abs=0.2)
    moved(0.5)
    with pytest.raises(lensmith.LensmithError, match="its processor makes pixels"):
        lensmith.export(artifact, tmp_path / "other", to="hf")
    assert not (tmp_path / "other").exists()
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "llava_next"


@pytest.mark.parametrize("base", ["lmsys/vicuna-7b-v1.5", None])
def test_E13_a_folder_of_adapters_is_told_what_it_is(tmp_path: Path, base: str | None) -> None:
    from safetensors.torch import save_file

    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": base, "r": 8, "target_modules": ["q_proj"]})
    )
    save_file({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(8, 4)},
              adapters / "adapter_model.safetensors")  # fmt: skip
    with pytest.raises(lensmith.LensmithError, match=r"holds PEFT's adapters alone.*merge_and_unload") as caught:
        lensmith.import_checkpoint(adapters, tmp_path / "out")
    assert (base or "does not name") in str(caught.value)
    assert not (tmp_path / "out").exists()
