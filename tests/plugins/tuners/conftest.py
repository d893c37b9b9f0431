"""A language model wide enough for blocks of 64, and one step of training in this process."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith.spec.build import load_spec

os.environ.setdefault("DS_ACCELERATOR", "cpu")
QUESTION = "What colour is it?"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Sums in the same order everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def wide_language_model(tiny_language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLaMA's tokenizer with a network 64 wide, four layers deep."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(tiny_language_model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_model(model_spec: dict[str, Any], wide_language_model: Path) -> dict[str, Any]:
    """The model section of its spec."""
    return {**model_spec, "language_model": {"name": "llama", "checkpoint": str(wide_language_model)}}


@pytest.fixture(scope="session")
def stages(wide_model: dict[str, Any], rows: Path) -> Callable[..., dict[str, Any]]:
    """A spec of stages by name, each given by its tuner."""

    def make(**tuners: Any) -> dict[str, Any]:
        common = {
            "data": {"sources": [str(rows)]},
            "lr": 1e-2,
            "max_steps": 2,
            "batch": {"size": 7},
            "schedule": {"warmup_ratio": 0.0},
            "precision": "fp32",
        }
        found = {name: {**common, "tuner": tuner} for name, tuner in tuners.items()}
        return {"model": copy.deepcopy(wide_model), "stages": found}

    return make


@pytest.fixture(scope="session")
def prepared(stages: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """The model of a spec with its tuner in, the tuner, and the plan of what trains."""

    def make(tuner: Any, dtype: torch.dtype = torch.float32, **model: Any) -> Any:
        data = stages(tune=tuner)
        for part, changes in model.items():
            data["model"][part] = changes
        spec = load_spec(data)
        tuner_spec = spec.stages["tune"].tuner
        real = lensmith.implementation(lensmith.Kind.TUNER, tuner_spec)(tuner_spec)
        assembled = lensmith.assemble(spec, tuner=real, dtype=dtype)
        real.prepare(assembled)
        return assembled, real, lensmith.plan(spec).stages[0].trainable

    return make


def logits(model: lensmith.MultimodalModel) -> torch.Tensor:
    """On the questions that merging asks too."""
    from lensmith import merging

    return torch.cat(merging.logits(model, merging.probes(model, 5)))


def command(*arguments: str | Path) -> tuple[int, str, str]:
    """`lensmith` as a user starts it, offline."""
    done = subprocess.run(
        [sys.executable, "-m", "lensmith.cli", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr
