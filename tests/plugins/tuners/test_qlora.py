"""4 bits for the language model's linear layers and nothing else, really quantised on the CPU."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file

import lensmith
from lensmith.dims import join
from lensmith.errors import ArtifactError, SpecError
from lensmith.interfaces.module_shapes import parameter_shapes
from lensmith.spec.build import load_spec
from lensmith.spec.check import checked

from .conftest import command, logits

QLORA = {"name": "qlora", "rank": 4}


def four_bit(model: lensmith.MultimodalModel) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit) and "lora" not in name}


def codes(model: lensmith.MultimodalModel) -> dict[str, torch.Tensor]:
    found = {}
    for name, module in four_bit(model).items():
        found[name] = module.weight.data.clone()
        found[f"{name} scales"] = module.weight.quant_state.absmax.clone()
    return found


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class TestWhatIsQuantised:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_language_models_linear_layers_alone(self, prepared: Callable[..., Any], dtype: torch.dtype) -> None:
        model, _, planned = prepared(QLORA, dtype)
        assert len(four_bit(model)) == 4 * 7
        assert all(name.startswith("language_model.network.model.layers.") for name in four_bit(model))
        for module in four_bit(model).values():
            state = module.weight.quant_state
            assert (state.quant_type, state.nested, state.blocksize) == ("nf4", True, 64)
            assert module.weight.dtype == torch.uint8
            assert module.weight.numel() * 2 == module.in_features * module.out_features
            assert module.compute_dtype == dtype
        others = {n: p for n, p in model.named_parameters() if p.is_floating_point() and "lora_" not in n}
        assert {p.dtype for p in others.values()} == {dtype}
        assert "language_model.network.lm_head.weight" in others
        trains = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
        assert {p.name: p.shape for p in planned} == trains

    def test_options(self, prepared: Callable[..., Any]) -> None:
        model, _, _ = prepared({**QLORA, "double_quantization": False, "compute": "bf16", "quantize_head": True})
        assert "language_model.network.lm_head" in four_bit(model)
        assert not any(m.weight.quant_state.nested for m in four_bit(model).values())
        assert {m.compute_dtype for m in four_bit(model).values()} == {torch.bfloat16}
        assert torch.isfinite(logits(model)).all()

    @pytest.mark.parametrize("double", [True, False])
    def test_bytes_are_those_of_the_plan(
        self, prepared: Callable[..., Any], stages: Callable[..., Any], double: bool
    ) -> None:
        choice = {**QLORA, "double_quantization": double}
        model, tuner, _ = prepared(choice)
        quantised = {f"{name}.weight" for name in four_bit(model)}
        plain = (p for n, p in model.named_parameters() if n not in quantised and "lora_" not in n)
        held = sum(p.numel() * p.itemsize for p in plain)
        for module in four_bit(model).values():
            state = module.weight.quant_state
            held += module.weight.numel() + state.absmax.numel() * state.absmax.itemsize
            held += state.state2.absmax.numel() * 4 if double else 0
        tables = join(load_spec(stages(tune=choice)).model).parameters()
        # Blocks of 256 scales are not full in so small a layer.
        assert tuner.spec.weight_bytes(tables, bytes_per_weight=4.0) == pytest.approx(held, rel=2e-3 if double else 0)

    def test_shapes_are_those_of_the_layers(self, prepared: Callable[..., Any]) -> None:
        """Packed weights have others; a plan, and an architecture without a closed form, need the real ones."""
        packed, _, _ = prepared(QLORA)
        plain, _, _ = prepared({"name": "lora", "rank": 4})
        assert parameter_shapes(packed.language_model) == parameter_shapes(plain.language_model)
        assert packed.language_model.shape == plain.language_model.shape

    def test_the_codes_do_not_depend_on_precision_or_on_the_way_in(
        self, prepared: Callable[..., Any], stages: Callable[..., Any], tmp_path: Path
    ) -> None:
        read, _, _ = prepared(QLORA)
        assert equal(codes(read), codes(prepared(QLORA, torch.bfloat16)[0]))
        lensmith.train(stages(align="frozen", tune=QLORA), output=tmp_path)
        assert equal(codes(read), codes(lensmith.load(tmp_path / "tune")))
        from lensmith_plugins.tuners.quantisation import quantise

        plain, _, _ = prepared("frozen")
        layers = [n.removeprefix("language_model.network.").replace(".base_layer", "") for n in four_bit(read)]
        quantise(plain.language_model.network, layers, compute=torch.float32, double=True)
        standing = {n.replace("_proj", "_proj.base_layer"): t for n, t in codes(plain).items()}
        assert equal(codes(read), standing)

    def test_answers_do_not_depend_on_the_mode(self, prepared: Callable[..., Any]) -> None:
        """bitsandbytes would repack weights for bf16 in evaluation mode on CPUs that have it."""
        model, _, _ = prepared(QLORA)
        before = codes(model)
        first = logits(model)
        model.train()
        embeds = torch.randn(1, 9, 64, requires_grad=True)
        places = torch.arange(9)[None], torch.ones(1, 9, dtype=torch.long)
        trained = model.language_model(embeds, *places)
        model.eval()
        with torch.no_grad():
            answered = model.language_model(embeds, *places)
        torch.testing.assert_close(trained, answered, rtol=0, atol=1e-5)
        assert equal(before, codes(model))
        assert torch.equal(first, logits(model))


class TestBasesThatNoCheckpointHolds:
    def test_random_weights(self, stages: Callable[..., Any], wide_language_model: Path, tmp_path: Path) -> None:
        spec = stages(tune=QLORA)
        config = shutil.copytree(wide_language_model, tmp_path / "lm", ignore=shutil.ignore_patterns("*.safetensors"))
        spec["model"]["language_model"] = {"name": "llama", "config": str(config)}
        lensmith.train(spec, output=tmp_path / "run")
        manifest = json.loads((tmp_path / "run/tune/manifest.json").read_text())
        assert manifest["weights"] == ["adapter", "language_model"]
        held = load_file(tmp_path / "run/tune/language_model/model.safetensors")
        assert {t.dtype for t in held.values()} == {torch.float32}
        first = lensmith.load(tmp_path / "run/tune")
        assert four_bit(first)
        again = first.save(tmp_path / "again")
        assert torch.equal(logits(lensmith.load(again)), logits(first))
        assert equal(load_file(again / "language_model/model.safetensors"), held)

    def test_a_base_that_was_tuned_and_then_merged(self, stages: Callable[..., Any], tmp_path: Path) -> None:
        """full, then 4 bits twice (the same adapters go on), then ordinary weights again."""
        lensmith.train(
            stages(whole="full", tune=QLORA, further=QLORA, last={"name": "lora", "rank": 2}), output=tmp_path
        )
        tuned = load_file(tmp_path / "whole/language_model/model.safetensors")
        for name in ("tune", "further"):
            held = load_file(tmp_path / name / "language_model/model.safetensors")
            assert equal(held, tuned)
        assert equal(codes(lensmith.load(tmp_path / "tune")), codes(lensmith.load(tmp_path / "further")))
        last = lensmith.load(tmp_path / "last")
        assert not four_bit(last)
        folded = load_file(tmp_path / "last/language_model/model.safetensors")
        assert {n for n in folded if not torch.equal(folded[n], tuned[n])} == {n for n in tuned if "_proj" in n}

    def test_a_stage_goes_on_with_the_answers_of_the_one_before(
        self, stages: Callable[..., Any], tmp_path: Path
    ) -> None:
        """Merging 4-bit weights does not quantise the sum again."""
        lensmith.train(stages(tune=QLORA, align="frozen"), output=tmp_path)
        before, after = (lensmith.load(tmp_path / name) for name in ("tune", "align"))
        after.connector.load_state_dict(before.connector.state_dict())
        torch.testing.assert_close(logits(before), logits(after), rtol=0, atol=1e-4)


class TestRefusals:
    def test_zero_3(self, stages: Callable[..., Any]) -> None:
        spec = stages(tune=QLORA)
        spec["stages"]["tune"]["deepspeed"] = {"zero": 3}
        with pytest.raises(
            SpecError, match=r"stages\.tune\.tuner: qlora cannot run under ZeRO-3.*deepspeed\.zero to 2"
        ):
            checked(spec)

    def test_without_bitsandbytes(
        self, stages: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        lensmith.train(stages(tune=QLORA), output=tmp_path)
        monkeypatch.setitem(sys.modules, "bitsandbytes", None)
        with pytest.raises(SpecError, match=r"bitsandbytes, which is not installed: pip install 'lensmith\[qlora\]'"):
            checked(stages(tune=QLORA))
        with pytest.raises(ArtifactError, match=r"pip install 'lensmith\[qlora\]'"):
            lensmith.load(tmp_path / "tune")


def test_in_half_precision(stages: Callable[..., Any], prepared: Callable[..., Any], tmp_path: Path) -> None:
    """The engine casts what is not quantised, and the codes stay; merging is judged by bf16's own tolerance."""
    spec = stages(tune=QLORA)
    spec["stages"]["tune"]["precision"] = "bf16"
    lensmith.train(spec, output=tmp_path / "run")
    loaded = lensmith.load(tmp_path / "run/tune", dtype=torch.bfloat16)
    assert equal(codes(loaded), codes(prepared(QLORA)[0]))
    done = lensmith.merge(tmp_path / "run/tune", tmp_path / "merged")
    assert (done.dtype, done.tolerance) == ("bfloat16", 8e-2)
    assert done.difference < 3e-2


@pytest.mark.slow
def test_two_ranks(stages: Callable[..., Any], tmp_path: Path) -> None:
    """ZeRO-2, micro-batches of one row, some of them text alone: the losses of one process."""
    spec = stages(tune=QLORA)
    stage = spec["stages"]["tune"]
    stage |= {"batch": {"size": 4, "micro": 1}, "max_steps": 3, "deepspeed": {"zero": 2}}
    stage["optimizer"] = {"eps": 1e-3}
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    code, _, errors = command("train", file, "--nproc", "2", "--output", tmp_path / "two")
    assert code == 0, errors
    alone = copy.deepcopy(spec)
    alone["stages"]["tune"]["deepspeed"] = {"zero": 0}
    lensmith.train(alone, output=tmp_path / "one")
    two, one = (
        [json.loads(line)["loss"] for line in (tmp_path / run / "metrics/tune.jsonl").read_text().splitlines()]
        for run in ("two", "one")
    )
    assert two == pytest.approx(one, rel=1e-5)
    torch.testing.assert_close(
        logits(lensmith.load(tmp_path / "two/tune")), logits(lensmith.load(tmp_path / "one/tune")), rtol=0, atol=1e-4
    )
