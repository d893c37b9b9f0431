"""Discovery imports these modules in every command, so they may not pull in what computes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lensmith_registry import Kind, register

HEAVY = ("torch", "transformers", "timm", "numpy", "PIL", "safetensors", "huggingface_hub")
MODULES = ("vision_encoders", "image_splitters", "connectors")


@pytest.mark.parametrize("module", MODULES)
def test_a_plugin_module_is_light(module: str) -> None:
    code = f"import sys, lensmith_plugins.{module} as m; m.lensmith_components(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "lensmith_plugins" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("module", MODULES)
def test_every_component_can_be_loaded_and_documents_its_fields(module: str) -> None:
    plugin = register(module, __import__(f"lensmith_plugins.{module}", fromlist=["_"]), "lensmith", "0")
    assert {component.kind for component in plugin.components} == {Kind(module.removesuffix("s"))}
    for component in plugin.components:
        assert component.load().__abstractmethods__ == frozenset()
        for name in component.spec.model_fields:
            assert component.spec.field_descriptions().get(name), f"{component} does not describe {name}"
