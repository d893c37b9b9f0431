"""What the original code wrote, read: the same logits, and nothing guessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lensmith
from lensmith import LensmithError
from lensmith.data.batch import collate
from lensmith.data.encode import Encoded
from lensmith.data.sample import Picture, expand
from lensmith.interfaces.text import IMAGE_ID

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def golden_logits(artifact: Path, golden: Path, projector: str, scenario: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ours and the original's of a recorded batch of one-view pictures: stored columns, and log-sum-exp, real
    positions only."""
    model = lensmith.load(artifact)
    inputs, outputs = load_file(golden / "inputs.safetensors"), load_file(golden / f"outputs_{projector}.safetensors")
    columns = json.loads((golden / "meta.json").read_text())["logits_cols"]
    pad = model.language_model.tokenizer.pad_id
    shown = iter(inputs[f"{scenario}/images"])
    samples = []
    for ids, mask in zip(inputs[f"{scenario}/input_ids"], inputs[f"{scenario}/attention_mask"], strict=True):
        row = ids[mask].tolist()
        taken = [next(shown) for _ in range(row.count(IMAGE_ID) or 1)][: row.count(IMAGE_ID)]
        pictures = [Picture(pixels[None], model.pictures.layout(*pixels.shape[-2:])) for pixels in taken]
        samples.append(expand("row", Encoded(row, [], ""), pictures, pad))
    batch = collate(samples, pad)
    with torch.no_grad():
        logits = model.language_model.head(model.language_model(model.embed(batch), batch.positions, batch.segments))
    real = batch.segments > 0
    stored = {k.removeprefix(f"{scenario}/out."): t for k, t in outputs.items() if k.startswith(f"{scenario}/out.")}
    length = logits.shape[1]
    return (
        logits[..., columns][real],
        stored["logits_cols"][:, :length][real],
        logits.logsumexp(-1)[real],
        stored["logits_lse"][:, :length][real],
    )


CASES = [
    ("mlp2x_gelu", {"pickled": True, "shards": 3}),
    ("mlp2x_gelu", {"shards": 2, "tower": False}),
    ("linear", {"pickled": True, "model_type": "llava"}),  # as v1 and v1.1
]


@pytest.mark.parametrize(("projector", "how"), CASES, ids=str)
def test_the_golden_logits(golden_model: Path, original: Any, tmp_path: Path, projector: str, how: Any) -> None:
    artifact = lensmith.import_checkpoint(original(projector, **how), tmp_path / "artifact").folder
    ours, theirs, norm, stored_norm = golden_logits(artifact, golden_model, projector, "pad_right_mixed")
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    torch.testing.assert_close(norm, stored_norm, **TOLERANCE)


def test_what_it_says_it_found(imported: Path) -> None:
    manifest = json.loads((imported / "manifest.json").read_text())
    model = manifest["model"]
    assert model["vision_encoder"] | {"checkpoint": ""} == {
        "name": "clip",
        "checkpoint": "",
        "config": None,
        "select_layer": -2,
        "cls_token": False,
    }
    assert model["image_splitter"]["name"] == "pad"
    assert (model["connector"]["name"], model["connector"]["depth"]) == ("mlp", 2)
    assert (model["language_model"]["name"], model["conversation"]["name"]) == ("llama", "vicuna_v1")
    assert manifest["imported"]["recognised"] == "an original LLaVA model"
    assert set(manifest["weights"]) == {"language_model", "vision_encoder"}
    assert manifest["tuner"] is None


@pytest.mark.parametrize("as_file", [False, True])
def test_a_projector_onto_its_base(
    golden_model: Path, golden_config: Any, decoder: Path, tower: Path, tmp_path: Path, as_file: bool
) -> None:
    folder = tmp_path / "stage1"
    folder.mkdir()
    weights = load_file(golden_model / "mm_projector_mlp2x_gelu.safetensors")
    torch.save(weights, folder / "mm_projector.bin")
    options = [f"base={decoder}"]
    if as_file:
        options += [f"vision_encoder={tower}", "select_layer=-2"]
    else:
        (folder / "config.json").write_text(json.dumps(golden_config(image_aspect_ratio="square")))
    source = folder / "mm_projector.bin" if as_file else folder
    with pytest.raises(LensmithError, match="say which language model it was trained onto with --base"):
        lensmith.import_checkpoint(source, tmp_path / "none")
    artifact = lensmith.import_checkpoint(source, tmp_path / "artifact", options=options).folder
    assert json.loads((artifact / "manifest.json").read_text())["model"]["image_splitter"]["name"] == "square"
    assert not (artifact / "language_model").exists()
    ours, theirs, _, _ = golden_logits(artifact, golden_model, "mlp2x_gelu", "pretrain_plain")
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_a_file_alone_leaves_the_layer_open(golden_model: Path, decoder: Path, tower: Path, tmp_path: Path) -> None:
    file = golden_model / "mm_projector_linear.safetensors"
    options = [f"base={decoder}", f"vision_encoder={tower}"]
    with pytest.raises(LensmithError, match="say it with select_layer=-2"):
        lensmith.import_checkpoint(file, tmp_path / "a", options=options)
    with pytest.raises(LensmithError, match="which CLIP it was trained on: vision_encoder=FOLDER"):
        lensmith.import_checkpoint(file, tmp_path / "a", options=options[:1])


def test_a_lora_folder(lora: Path, decoder: Path, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(LensmithError, match="not on this machine; say where that language model is with --base"):
        lensmith.import_checkpoint(lora, tmp_path / "artifact")
    artifact = lensmith.import_checkpoint(lora, tmp_path / "artifact", options=[f"base={decoder}"]).folder
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert (manifest["tuner"]["rank"], manifest["tuner"]["alpha"]) == (8, 16.0)
    base = load_file(decoder / "model.safetensors")
    stored = load_file(lora / "adapter_model.safetensors")
    merged = dict(lensmith.load(artifact, merge=True).language_model.network.named_parameters())
    name = "model.layers.1.mlp.down_proj"
    down, up = (stored[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
    torch.testing.assert_close(merged[f"{name}.weight"], base[f"{name}.weight"] + 2.0 * up @ down)


def test_a_run_extends_an_import(original: Any, rows: Path, tmp_path: Path) -> None:
    """The artifact brings a spec that starts from it, also after it was moved."""
    artifact = lensmith.import_checkpoint(original(), tmp_path / "artifact").folder.rename(tmp_path / "moved")
    data = {"sources": str(rows)}
    stage = {"tuner": "frozen", "data": data, "lr": 1e-3, "batch": {"size": 4}, "precision": "fp32", "max_steps": 2}
    run = {"extends": str(artifact / "spec.json"), "stages": {"tune": stage}}
    (tuned,) = lensmith.train(run, output=tmp_path / "run")
    begun, ended = (load_file(folder / "connector.safetensors") for folder in (artifact, tuned))
    assert begun.keys() == ended.keys()
    assert any(not torch.equal(begun[name], ended[name]) for name in begun)
    done = lensmith.export(tuned, tmp_path / "hf", to="hf")
    assert done is not None
    assert done.difference < 1e-4


REFUSED = [
    ({"mm_projector_type": "resampler"}, "mm_projector_type 'resampler' is not linear, mlpNx_gelu or identity"),
    ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio 'anyres_max_9' is not square, pad or anyres"),
    ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": "[1, 2"}, "image_grid_pinpoints .* is no list"),
    ({"mm_vision_select_feature": "pooled"}, "mm_vision_select_feature 'pooled' is not patch or cls_patch"),
    ({"mm_use_im_start_end": True}, "say which prompt template it was tuned with: conversation=NAME"),
    ({"mm_vision_tower": "/gone/clip"}, "vision encoder /gone/clip, which is not on this machine; .*vision_encoder="),
    ({"model_type": "llava_mpt"}, "model_type 'llava_mpt' is not one of llava, llava_llama, llava_mistral"),
    ({"hidden_size": 64}, "its weights do not fit its config|size|shape|does not fit"),
    ({"num_hidden_layers": 3}, "lacks model.layers.2"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_had_is_refused(
    original: Any, golden_config: Any, tmp_path: Path, changes: Any, message: str
) -> None:
    folder = Path(shutil.copytree(original(), tmp_path / "source"))
    (folder / "config.json").write_text(json.dumps(golden_config(**changes)))
    with pytest.raises(LensmithError, match=message):
        lensmith.import_checkpoint(folder, tmp_path / "artifact")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_unknown_tensors_are_refused(original: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original(), tmp_path / "source"))
    weights = load_file(folder / "model.safetensors") | {"model.vision_resampler.queries": torch.zeros(3)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LensmithError, match=r"no part of Lensmith takes: model\.vision_resampler\.queries"):
        lensmith.import_checkpoint(folder, tmp_path / "artifact")


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("import pathlib; pathlib.Path('/tmp/never').touch()",)


def test_a_pickle_that_runs_code_is_not_read(original: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original(), tmp_path / "source"))
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": torch.zeros(2), "code": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(LensmithError, match="holds more than tensors, which might run code"):
        lensmith.import_checkpoint(folder, tmp_path / "artifact")
    assert not Path("/tmp/never").exists()


def test_a_missing_shard_is_named(original: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original(shards=3), tmp_path / "source"))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(LensmithError, match=r"names model-00002-of-00003\.safetensors, not there"):
        lensmith.import_checkpoint(folder, tmp_path / "artifact")
