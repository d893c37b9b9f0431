"""Weights are mapped, not copied: what loading takes besides the files, in a process of its own.

Measured is anonymous memory (Linux's RssAnon, read all the time by a thread): the pages of mapped files are the page
cache's, shared and given back when memory is short. Each kind is loaded tiny first, so that imports do not count.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaForCausalLM

import lensmith
from lensmith import Kind
from lensmith.parts import implementation
from lensmith.spec import installed, part_class

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")

KINDS = ["full", "lora", *(["qlora"] if importlib.util.find_spec("bitsandbytes") else [])]
LARGE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 11, "vocab_size": 4000}

CHILD = """
import gc, json, sys, threading, torch, lensmith
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], anonymous())
found = {}
for kind in sys.argv[3:]:
    lensmith.load(f"{sys.argv[1]}/{kind}")
    gc.collect()
    start = anonymous()
    peak, done = [start], threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    model = lensmith.load(f"{sys.argv[2]}/{kind}")
    done.set()
    thread.join()
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    found[kind] = {"size": size, "peak": peak[0] - start, "kept": anonymous() - start}
    del model
print(json.dumps(found))
"""


def save(folder: Path, spec: dict[str, Any]) -> Path:
    """An artifact of each kind."""
    whole = lensmith.assemble({"model": spec})
    whole.changed.add("language_model")
    whole.save(folder / "full")
    for kind in KINDS[1:]:
        tuner_spec = part_class(Kind.TUNER, kind, installed()).model_validate({"name": kind, "rank": 4})
        tuner = implementation(Kind.TUNER, tuner_spec)(tuner_spec)
        model = lensmith.assemble({"model": spec}, tuner=tuner)
        tuner.prepare(model)
        model.tuner = tuner
        model.save(folder / kind)
    return folder


@pytest.fixture(scope="module")
def measured(
    model_spec: dict[str, Any], tiny_language_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("memory")
    tiny = save(folder / "tiny", model_spec)
    base = folder / "base"
    config = AutoConfig.from_pretrained(tiny_language_model, **LARGE)
    LlamaForCausalLM(config).save_pretrained(base, max_shard_size="40MB")
    assert len(list(base.glob("*.safetensors"))) > 2
    language = {"name": "llama", "checkpoint": str(base), "tokenizer": str(tiny_language_model)}
    large = save(folder / "large", {**model_spec, "language_model": language})
    # Freed weights go back at once: what the C library would keep of them is luck.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 18), "MALLOC_TRIM_THRESHOLD_": str(1 << 18)}
    command = [sys.executable, "-c", CHILD, str(tiny), str(large), *KINDS]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize("kind", KINDS)
def test_loading_takes_no_second_copy(measured: dict[str, dict[str, float]], kind: str) -> None:
    whole, peak = measured["full"]["size"], measured[kind]["peak"]
    assert whole > 110
    if kind == "qlora":  # 4 bits of 32 are made of the mapped weights, layer by layer
        assert peak < 0.4 * whole
    else:
        assert peak < 0.15 * whole
