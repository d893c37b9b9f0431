"""Artifacts read back: whole, moved, merged, by plain peft and transformers; and what is said when something lacks."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lensmith
from lensmith.data.batch import Batch, collate
from lensmith.errors import ArtifactError
from lensmith.files import inventory
from lensmith.generation import Question, prepare

QUESTION = "What colour is it?"
Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


@torch.no_grad()
def logits(model: lensmith.MultimodalModel) -> torch.Tensor:
    """Of a question with a picture and one without."""
    questions = [(Image.new("RGB", (40, 30), "red"), QUESTION), (None, "Say something.")]
    samples = [prepare(model, Question.of(*question)) for question in questions]
    batch: Batch = collate(samples, model.language_model.tokenizer.pad_id, left=True)
    hidden = model.language_model(model.embed(batch), batch.positions, batch.segments)
    return model.language_model.head(hidden)[:, -1]


class TestLoad:
    @pytest.mark.parametrize("stage", ["align", "tune", "whole"])
    def test_it_is_ready_for_use(self, trained: Path, stage: str) -> None:
        model = lensmith.load(trained / stage)
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
        assert isinstance(model.generate(Image.new("RGB", (20, 20)), QUESTION), str)

    def test_stages_are_different_models(self, trained: Path) -> None:
        found = [logits(lensmith.load(trained / stage)) for stage in ("align", "tune", "whole")]
        assert not torch.allclose(found[0], found[1], atol=1e-3)
        assert not torch.allclose(found[1], found[2], atol=1e-3)

    def test_twice_is_the_same(self, trained: Path) -> None:
        assert torch.equal(logits(lensmith.load(trained / "tune")), logits(lensmith.load(trained / "tune")))

    def test_merged_is_unmerged(self, trained: Path) -> None:
        plain, merged = (lensmith.load(trained / "tune", merge=merge) for merge in (False, True))
        torch.testing.assert_close(logits(merged), logits(plain), rtol=1e-5, atol=1e-5)
        assert not any("lora_" in name for name, _ in merged.named_parameters())
        assert any("lora_" in name for name, _ in plain.named_parameters())

    def test_the_adapter_does_something(self, trained: Path) -> None:
        model = lensmith.load(trained / "tune")
        adapted = logits(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.zero_()
        assert not torch.allclose(logits(model), adapted, atol=1e-3)

    def test_in_another_type(self, trained: Path) -> None:
        model = lensmith.load(trained / "tune", dtype=torch.bfloat16)
        assert {p.dtype for n, p in model.named_parameters() if "lora_" not in n} == {torch.bfloat16}
        torch.testing.assert_close(logits(model).float(), logits(lensmith.load(trained / "tune")), rtol=0.1, atol=0.1)

    def test_it_is_named_by_its_content_not_its_path(self, copied: Callable[[str], Path]) -> None:
        artifact = copied("tune")
        odd = artifact.rename(artifact.with_name("llava-v1.5 mpt – final (2)"))
        assert torch.equal(logits(lensmith.load(odd)), logits(lensmith.load(str(odd))))

    @pytest.mark.parametrize("stage", ["align", "tune", "whole"])
    def test_saved_again_it_is_the_same(self, trained: Path, tmp_path: Path, stage: str) -> None:
        model = lensmith.load(trained / stage)
        again = lensmith.load(model.save(tmp_path / "again"))
        assert torch.equal(logits(again), logits(model))
        with pytest.raises(ArtifactError, match="exists already"):
            model.save(tmp_path / "again")

    def test_an_assembled_model_can_be_saved(self, trained: Path, tmp_path: Path) -> None:
        spec = {"model": json.loads((trained / "align" / "manifest.json").read_text())["model"]}
        model = lensmith.assemble(spec, seed=7).eval()
        saved = lensmith.load(model.save(tmp_path / "saved"))
        assert torch.equal(logits(saved), logits(model))
        assert json.loads((tmp_path / "saved" / "manifest.json").read_text())["tuner"] is None


class TestOtherPeoplesTools:
    def test_peft_loads_the_adapter_onto_the_base(self, trained: Path) -> None:
        import peft
        from transformers import AutoModelForCausalLM

        model = lensmith.load(trained / "tune")
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        config = peft.PeftConfig.from_pretrained(trained / "tune" / "adapter")
        assert Path(config.base_model_name_or_path) == trained.parent / "bases" / "language_model"
        assert (config.r, config.lora_alpha) == (4, 8)  # alpha is twice the rank unless the spec says otherwise
        base = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path, dtype=torch.float32)
        with torch.no_grad():
            plain = base(ids).logits
            theirs = peft.PeftModel.from_pretrained(base, trained / "tune" / "adapter").eval()(ids).logits
            embeds = model.language_model.embed(ids)
            ones = torch.ones_like(ids)
            ours = model.language_model.head(model.language_model(embeds, torch.arange(5)[None], ones))
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(plain, ours, atol=1e-3)

    def test_transformers_loads_a_trained_language_model(self, trained: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = trained / "whole" / "language_model"
        network, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        ours = dict(lensmith.load(trained / "whole").language_model.network.named_parameters())
        theirs = dict(network.named_parameters())
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.decode(tokenizer("red and green")["input_ids"]) == "red and green"

    def test_transformers_loads_a_trained_encoder(self, trained: Path) -> None:
        from transformers import CLIPVisionModel

        network = CLIPVisionModel.from_pretrained(trained / "whole" / "vision_encoder")
        ours = lensmith.load(trained / "whole").vision_encoder
        pixels = torch.randn(1, 3, 28, 28)
        with torch.no_grad():
            hidden = network(pixel_values=pixels, output_hidden_states=True).hidden_states
            torch.testing.assert_close(ours(pixels), hidden[2][:, 1:])

    def test_the_tokenizer_goes_along(self, trained: Path) -> None:
        from transformers import AutoTokenizer

        for stage in ("align", "tune", "whole"):
            tokenizer = AutoTokenizer.from_pretrained(trained / stage / "tokenizer")
            assert tokenizer.eos_token == "<|im_end|>"


class TestBases:
    """An artifact that names a base needs it; what to do when it is not where it was."""

    def test_it_moved(self, trained: Path, tmp_path: Path) -> None:
        expected = logits(lensmith.load(trained / "tune"))
        base, away = trained.parent / "bases" / "language_model", tmp_path / "away"
        shutil.move(base, away)
        try:
            with pytest.raises(ArtifactError) as caught:
                lensmith.load(trained / "tune")
            message = str(caught.value)
            assert f"language_model.checkpoint was {base}, which is gone" in message
            assert "say where it is now with language_model.checkpoint=PATH" in message
            assert "vision_encoder.checkpoint was" not in message
            cured = lensmith.load(trained / "tune", overrides=[f"language_model.checkpoint={away}"])
            assert torch.equal(logits(cured), expected)
        finally:
            shutil.move(away, base)

    def test_both_moved(self, trained: Path, tmp_path: Path) -> None:
        bases, away = trained.parent / "bases", tmp_path / "away"
        shutil.move(bases, away)
        try:
            with pytest.raises(ArtifactError) as caught:
                lensmith.load(trained / "align")
            assert "with vision_encoder.checkpoint=PATH language_model.checkpoint=PATH)" in str(caught.value)
            overrides = [
                f"vision_encoder.checkpoint={away}/encoder",
                f"language_model.checkpoint={away}/language_model",
            ]
            assert lensmith.load(trained / "align", overrides=overrides)
        finally:
            shutil.move(away, bases)

    def test_what_was_trained_needs_none(self, trained: Path, tmp_path: Path) -> None:
        expected = logits(lensmith.load(trained / "whole"))
        bases, away = trained.parent / "bases", tmp_path / "away"
        shutil.move(bases, away)
        try:
            assert torch.equal(logits(lensmith.load(trained / "whole")), expected)
        finally:
            shutil.move(away, bases)

    def test_another_base_is_not_taken_silently(self, trained: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        shutil.copytree(trained.parent / "bases" / "language_model", other)
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
        place = f"language_model.checkpoint={other}"
        with pytest.raises(ArtifactError, match=r"was trained on other weights: .*/other/config\.json changed since"):
            lensmith.load(trained / "tune", overrides=[place])
        with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors does not fit"):
            lensmith.load(trained / "tune", overrides=[place], check=False)

    def test_other_weights_of_the_same_shape_are_not_either(self, trained: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        other = tmp_path / "other"
        shutil.copytree(trained.parent / "bases" / "language_model", other)
        file = other / "model.safetensors"
        save_file({name: tensor + 0.1 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
        place = f"language_model.checkpoint={other}"
        with pytest.raises(ArtifactError) as caught:
            lensmith.load(trained / "tune", overrides=[place])
        assert f"was trained on other weights: {file} changed since" in str(caught.value)
        assert "where it is with language_model.checkpoint=PATH (" in str(caught.value)
        changed = lensmith.load(trained / "tune", overrides=[place], check=False)
        assert not torch.equal(logits(changed), logits(lensmith.load(trained / "tune")))

    def test_overrides_are_checked(self, trained: Path) -> None:
        with pytest.raises(ArtifactError, match="override 'language_model': an override reads dotted"):
            lensmith.load(trained / "tune", overrides=["language_model"])
        with pytest.raises(ArtifactError, match=r"its manifest does not fit the installed parts: .*no such field"):
            lensmith.load(trained / "tune", overrides=["language_model.chekpoint=x"])

    def test_random_weights_are_held_in_full(
        self, trained: Path, tiny_encoder: Path, tiny_language_model: Path, rows: Path, tmp_path: Path
    ) -> None:
        configs = tmp_path / "configs"
        shutil.copytree(tiny_encoder, configs / "encoder", ignore=shutil.ignore_patterns("*.safetensors"))
        shutil.copytree(tiny_language_model, configs / "lm", ignore=shutil.ignore_patterns("*.safetensors"))
        model = copy.deepcopy(json.loads((trained / "align" / "manifest.json").read_text())["model"])
        model["vision_encoder"] = {"name": "clip", "config": str(configs / "encoder")}
        model["language_model"] = {"name": "llama", "config": str(configs / "lm")}
        stage = {"data": {"sources": [str(rows)]}, "batch": {"size": 14}, "precision": "fp32", "lr": 1e-2}
        stages = {"align": {**stage, "tuner": "frozen"}, "tune": {**stage, "tuner": {"name": "lora", "rank": 2}}}
        lensmith.train({"model": model, "stages": stages}, output=tmp_path / "run")
        first = logits(lensmith.load(tmp_path / "run" / "align"))
        for name, held in (("align", []), ("tune", ["adapter"])):
            manifest = json.loads((tmp_path / "run" / name / "manifest.json").read_text())
            assert manifest["weights"] == [*held, "language_model", "vision_encoder"]
            assert manifest["sources"] == {}
        shutil.rmtree(configs)
        shutil.move(tmp_path / "run" / "align", tmp_path / "moved")
        assert torch.equal(logits(lensmith.load(tmp_path / "moved")), first)
        shutil.rmtree(tmp_path / "moved")
        assert torch.isfinite(logits(lensmith.load(tmp_path / "run" / "tune"))).all()


class TestDamage:
    @pytest.mark.parametrize(
        ("stage", "file"),
        [
            ("align", "connector.safetensors"),
            ("tune", "adapter/adapter_model.safetensors"),
            ("tune", "adapter/adapter_config.json"),
            ("whole", "language_model/model.safetensors"),
            ("whole", "vision_encoder/config.json"),
            ("tune", "tokenizer/tokenizer.json"),
        ],
    )
    def test_a_changed_byte_is_found(self, copied: Callable[[str], Path], stage: str, file: str) -> None:
        artifact = copied(stage)
        content = bytearray((artifact / file).read_bytes())
        content[-1] ^= 1
        (artifact / file).write_bytes(content)
        with pytest.raises(ArtifactError, match=rf"{stage} is damaged: {file} was changed \(its hash differs\)"):
            lensmith.load(artifact)

    def test_files_that_are_missing_or_cut(self, copied: Callable[[str], Path]) -> None:
        artifact = copied("tune")
        (artifact / "connector.safetensors").unlink()
        adapter = artifact / "adapter" / "adapter_model.safetensors"
        size = adapter.stat().st_size
        adapter.write_bytes(adapter.read_bytes()[:100])
        with pytest.raises(ArtifactError) as caught:
            lensmith.load(artifact)
        assert "connector.safetensors is missing" in str(caught.value)
        assert f"adapter/adapter_model.safetensors has 100 bytes, not {size}" in str(caught.value)

    def test_without_the_check_tensors_are_still_compared(self, copied: Callable[[str], Path]) -> None:
        from safetensors.torch import load_file, save_file

        artifact = copied("tune")
        file = artifact / "connector.safetensors"
        tensors = load_file(file)
        save_file({"0.weight": tensors["0.weight"][:, :3].contiguous(), "9": tensors["0.bias"]}, file)
        with pytest.raises(ArtifactError) as caught:
            lensmith.load(artifact, check=False)
        width = tensors["0.weight"].shape
        assert str(caught.value).splitlines() == [
            f"{artifact} does not fit its model:",
            "  connector: missing 3: 0.bias, 2.bias, 2.weight",
            "  connector: unexpected 1: 9",
            f"  connector: of another shape 1: 0.weight (stored {width[0]} x 3, wanted {width[0]} x {width[1]})",
        ]
        file.unlink()
        with pytest.raises(ArtifactError, match=r"connector: missing 4: "):
            lensmith.load(artifact, check=False)

    def test_what_does_not_fit_is_told_of_every_part_at_once(self, copied: Callable[[str], Path]) -> None:
        from safetensors.torch import load_file, save_file

        artifact = copied("tune")
        (artifact / "connector.safetensors").unlink()
        file = artifact / "adapter" / "adapter_model.safetensors"
        save_file({n: t for n, t in load_file(file).items() if "k_proj" not in n}, file)
        with pytest.raises(ArtifactError) as caught:
            lensmith.load(artifact, check=False)
        title, connector, adapter = str(caught.value).splitlines()
        assert title == f"{artifact} does not fit its model:"
        assert connector.startswith("  connector: missing 4: ")
        name = "base_model.model.model.layers.{}.self_attn.k_proj.lora_{}.weight"
        told = ", ".join(name.format(layer, side) for side in "AB" for layer in (0, 1))
        assert adapter == f"  {file} does not fit the language model: missing 4: {told}"

    def test_an_adapter_that_does_not_fit(self, copied: Callable[[str], Path]) -> None:
        from safetensors.torch import load_file, save_file

        artifact = copied("tune")
        file = artifact / "adapter" / "adapter_model.safetensors"
        tensors = load_file(file)
        removed = sorted(tensors)[0]
        save_file({n: t for n, t in tensors.items() if n != removed}, file)
        with pytest.raises(ArtifactError, match=rf"does not fit the language model: missing 1: {removed}$"):
            lensmith.load(artifact, check=False)

    def test_folders_that_are_no_artifacts(self, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="does not exist; give the folder of a stage"):
            lensmith.load(tmp_path / "gone")
        with pytest.raises(ArtifactError, match=r"has no manifest\.json; it holds artifacts: align, tune, whole"):
            lensmith.load(trained)
        with pytest.raises(ArtifactError, match=r"has no manifest\.json$"):
            lensmith.load(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "manifest.json:1: not valid JSON: it is empty"),
            ("[]", "manifest.json: holds a list, where an object is needed"),
            ("{}", "cannot be read: KeyError"),
            ('{"format": 1}', "is damaged: it lacks model, tuner, plugins"),
            ('{"format": 2}', "has format 2, this Lensmith reads 1; install a version that fits"),
            (b"\xff\xfe", "manifest.json: is UTF-16 text"),
        ],
    )
    def test_manifests_that_are_none(self, tmp_path: Path, content: str | bytes, message: str) -> None:
        (tmp_path / "manifest.json").write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ArtifactError, match=message):
            lensmith.load(tmp_path)


class TestPickles:
    """A format that runs code when it is read is not read, whoever listed it."""

    @pytest.mark.parametrize(
        ("stage", "file"),
        [
            ("whole", "language_model/pytorch_model.bin"),
            ("whole", "vision_encoder/model.pt"),
            ("tune", "adapter/adapter_model.bin"),
            ("align", "connector.pkl"),
        ],
    )
    def test_refused(self, copied: Callable[[str], Path], edit: Edit, tmp_path: Path, stage: str, file: str) -> None:
        class Payload:
            def __reduce__(self) -> Any:
                return Path.mkdir, (tmp_path / "touched",)

        artifact = copied(stage)
        torch.save({"weight": Payload()}, artifact / file)
        for safe in (artifact / file).parent.glob("*.safetensors"):
            safe.unlink()  # so that the pickle is what is left to read
        edit(artifact, lambda data: data.update(files=inventory(artifact)))
        for check in (True, False):
            with pytest.raises(ArtifactError) as caught:
                lensmith.load(artifact, check=check)
            assert f"{artifact} is not read: {file} may be pickles" in str(caught.value)
        assert not (tmp_path / "touched").exists()


class TestPluginsThatAreNotInstalled:
    @pytest.mark.parametrize("kind", ["vision_encoder", "connector", "tuner", "conversation"])
    def test_the_package_is_named(self, copied: Callable[[str], Path], edit: Edit, kind: str) -> None:
        artifact = copied("tune")

        def rename(data: dict[str, Any]) -> None:
            part = data["tuner"] if kind == "tuner" else data["model"][kind]
            part["name"] = "wondrous"
            data["plugins"][kind] = {"name": "wondrous", "distribution": "lensmith-wonders", "version": "1.2"}

        edit(artifact, rename)
        with pytest.raises(ArtifactError) as caught:
            lensmith.load(artifact)
        assert str(caught.value) == (
            f"{artifact}: {kind} 'wondrous' is not installed; it came from lensmith-wonders 1.2:"
            " pip install lensmith-wonders==1.2"
        )

    def test_all_of_them_at_once(self, copied: Callable[[str], Path], edit: Edit) -> None:
        artifact = copied("tune")

        def rename(data: dict[str, Any]) -> None:
            for kind in ("connector", "tuner"):
                data["plugins"][kind]["name"] = f"my_{kind}"

        edit(artifact, rename)
        with pytest.raises(
            ArtifactError, match=r"connector 'my_connector' of .* is not in .*tuner 'my_tuner' of .* is not in"
        ):
            lensmith.load(artifact)
