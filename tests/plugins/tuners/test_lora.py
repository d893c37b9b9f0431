"""LoRA and its variants: on exactly the layers that the spec names, in exactly the part that it names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith.errors import SpecError
from lensmith.spec.check import checked

VARIANTS: list[dict[str, Any]] = [
    {"rank": 4},
    {"rank": 4, "rslora": True, "dropout": 0.1, "init": "gaussian"},
    {"rank": 2, "dora": True, "targets": ["q_proj", "mlp.down_proj"]},
    {"rank": 4, "init": "orthogonal", "targets": {"vision_encoder": "all"}, "connector": False},
    {"rank": 2, "targets": {"language_model": ["v_proj"], "vision_encoder": ["q_proj", "fc1"]}},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_the_plan_is_what_trains(prepared: Callable[..., Any], settings: dict[str, Any]) -> None:
    model, tuner, planned = prepared({"name": "lora", **settings})
    trains = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    assert {p.name: p.shape for p in planned} == trains
    assert sorted(n for g in tuner.groups(model) for n in g.names) == sorted(trains)
    parts = {name.split(".")[0] for name in trains if "lora_" in name}
    assert parts == set(settings["targets"]) if isinstance(settings.get("targets"), dict) else {"language_model"}


def test_an_encoder_with_the_same_leaf_names_is_left_alone(prepared: Callable[..., Any]) -> None:
    """CLIP has q_proj, k_proj and v_proj too; a match of suffixes over the whole model would adapt them."""
    model, _, _ = prepared({"name": "lora", "rank": 2, "targets": ["q_proj", "v_proj"]})
    adapted = [name for name, _ in model.named_modules() if name.endswith("lora_A")]
    assert len(adapted) == 2 * 4
    assert all(name.startswith("language_model.network.model.layers.") for name in adapted)
    assert not any(p.requires_grad for p in model.vision_encoder.parameters())


def test_scales(prepared: Callable[..., Any]) -> None:
    def scale(**settings: Any) -> float:
        model, _, _ = prepared({"name": "lora", "rank": 4, **settings})
        return float(model.language_model.network.model.layers[0].self_attn.q_proj.scaling["default"])

    assert scale() == 2.0  # alpha is 2 x rank
    assert scale(alpha=3) == 0.75
    assert scale(rslora=True) == 4.0


@pytest.mark.parametrize("init", ["kaiming", "gaussian", "orthogonal"])
def test_every_start_changes_nothing(prepared: Callable[..., Any], init: str) -> None:
    from lensmith import merging

    model, _, _ = prepared({"name": "lora", "rank": 4, "init": init})
    plain, _, _ = prepared("frozen")
    ours, theirs = (torch.cat(merging.logits(m, merging.probes(m, 1))) for m in (model, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_prj"], "target 'q_prj' is no linear layer of the language model. Did you mean 'q_proj'? There are:"),
        ({"vision_encoder": ["gate_proj"]}, "target 'gate_proj' is no linear layer of the vision encoder. Did you"),
        ({"connector": ["0"]}, "targets.connector"),
        ([], "at least 1 item"),
    ],
)
def test_targets_that_are_not_there(stages: Callable[..., Any], targets: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        checked(stages(tune={"name": "lora", "targets": targets}))
    assert message in str(caught.value)


def test_a_check_of_every_tuner_is_light(stages: Callable[..., Any], tmp_path: Path) -> None:
    methods = [("ia3", {}), ("prefix_tuning", {"num_virtual_tokens": 4}), ("oft", {"oft_block_size": 8})]
    tuners = {"a": "lora", "b": "qlora", "c": {"name": "full", "language_model": {"layers": "1-2"}}}
    tuners |= {f"p{i}": {"name": "peft", "method": m, "config": c} for i, (m, c) in enumerate(methods)}
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(stages(**tuners)))
    code = "import sys; from lensmith.spec.check import checked; checked(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"torch", "peft", "transformers", "bitsandbytes"})


def test_peft_says_nothing_that_no_user_can_use() -> None:
    code = "import lensmith_plugins.tuners.qlora, lensmith_plugins.tuners.quantisation"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "gemm_4bit_forward" not in done.stderr


def test_peft_alone_reads_the_adapter(stages: Callable[..., Any], wide_language_model: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    lensmith.train(stages(tune={"name": "lora", "rank": 2, "dora": True}), output=tmp_path)
    base = AutoModelForCausalLM.from_pretrained(wide_language_model)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "tune" / "adapter").eval()
    ours = lensmith.load(tmp_path / "tune").language_model.network.eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        adapted = theirs(ids).logits
        torch.testing.assert_close(adapted, ours(ids).logits, rtol=0, atol=1e-5)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(ids).logits, adapted, atol=1e-3)
