"""LLaVA's projector files through `checkpoint`: golden weights, `torch.save` files, and files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensmith import Connector, VisionShape
from lensmith_plugins.connectors.linear import LinearConnector
from lensmith_plugins.connectors.mlp import MlpConnector
from lensmith_plugins.connectors.specs import LinearSpec, MlpSpec

ENCODER = VisionShape((56, 56), (4, 4), 48)
KINDS: dict[str, tuple[type[Connector], type[Any]]] = {
    "linear": (LinearConnector, LinearSpec),
    "mlp2x_gelu": (MlpConnector, MlpSpec),
}


def loaded(kind: str, checkpoint: Path, **fields: Any) -> dict[str, torch.Tensor]:
    connector_class, spec_class = KINDS[kind]
    spec = spec_class(checkpoint=checkpoint, **fields)
    assert spec.sources() == {"checkpoint": str(checkpoint)}
    connector = connector_class.build(spec, ENCODER, 32)
    connector.calibrate(torch.randn(9, 32))
    assert not connector.load_pretrained(spec)
    return connector.state_dict()


@pytest.mark.parametrize("kind", KINDS)
class TestFiles:
    @pytest.fixture
    def golden(self, shared: Path, kind: str) -> Path:
        return shared / "golden" / "model" / f"mm_projector_{kind}.safetensors"

    def expected(self, golden: Path) -> dict[str, torch.Tensor]:
        return {name.removeprefix("model.mm_projector."): tensor for name, tensor in load_file(golden).items()}

    def test_safetensors(self, kind: str, golden: Path) -> None:
        found, expected = loaded(kind, golden), self.expected(golden)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    @pytest.mark.parametrize("prefix", ["model.mm_projector.", "base_model.model.model.mm_projector."])
    def test_what_llava_saves(self, kind: str, golden: Path, tmp_path: Path, prefix: str) -> None:
        """Half precision, by `torch.save`, beside other tensors: mm_projector.bin and non_lora_trainables.bin."""
        expected = {name: tensor.half() for name, tensor in self.expected(golden).items()}
        stored = {f"{prefix}{name}": tensor for name, tensor in expected.items()}
        torch.save({**stored, "model.embed_tokens.weight": torch.zeros(3, 32)}, tmp_path / "mm_projector.bin")
        found = loaded(kind, tmp_path / "mm_projector.bin")
        assert all(tensor.dtype == torch.float32 for tensor in found.values())
        assert all(torch.equal(found[name], expected[name].float()) for name in expected)

    def test_our_own(self, kind: str, golden: Path, tmp_path: Path) -> None:
        save_file(self.expected(golden), tmp_path / "connector.safetensors")
        found = loaded(kind, tmp_path / "connector.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in self.expected(golden).items())


def test_the_checkpoints_scale_is_not_changed(tmp_path: Path) -> None:
    stored = {"0.weight": torch.ones(32, 48), "0.bias": torch.ones(32)}
    save_file(stored, tmp_path / "x.safetensors")
    found = loaded("mlp2x_gelu", tmp_path / "x.safetensors", depth=1, output_scale="embeddings")
    assert torch.equal(found["0.weight"], stored["0.weight"])


class TestMistakes:
    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"gone\.bin does not exist; `checkpoint` names LLaVA's"):
            loaded("linear", tmp_path / "gone.bin")

    def test_tensors_that_do_not_fit(self, tmp_path: Path) -> None:
        file = tmp_path / "mm_projector.bin"
        names = {"0.weight": (32, 40), "0.bias": (32,), "2.weight": (32, 32), "4.bias": (32,)}
        torch.save({f"model.mm_projector.{name}": torch.zeros(shape) for name, shape in names.items()}, file)
        with pytest.raises(ValueError, match="does not fit the connector") as caught:
            loaded("mlp2x_gelu", file)
        assert str(caught.value) == (
            f"{file} does not fit the connector: missing 2.bias; unexpected 4.bias; misshapen: 0.weight is (32, 40),"
            " not (32, 48); LLaVA's mlpNx_gelu is `depth: N` without `input_norm`, between the same widths"
        )

    def test_nothing_but_tensors_is_unpickled(self, tmp_path: Path) -> None:
        torch.save({"model.mm_projector.weight": Path("x")}, tmp_path / "code.bin")
        with pytest.raises(ValueError, match=r"code\.bin: its weights cannot be read"):
            loaded("linear", tmp_path / "code.bin")
        torch.save({"model.mm_projector.weight": "text"}, tmp_path / "text.bin")
        with pytest.raises(ValueError, match="does not hold tensors by name"):
            loaded("linear", tmp_path / "text.bin")

    @pytest.mark.parametrize("name", ["cut.bin", "cut.safetensors"])
    def test_damaged_files(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"PK\x03\x04 not really")
        with pytest.raises(ValueError, match="its weights cannot be read"):
            loaded("linear", tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match="its weights cannot be read"):
            loaded("linear", tmp_path / name)
