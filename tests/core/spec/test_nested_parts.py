"""Parts that are made of parts: any plugin's spec may hold others, and they are read as those of a model are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from lensmith import Component, ConnectorSpec, Kind, Registry, SpecError, VisionEncoderSpec, load_spec
from lensmith.parts import nested_parts
from lensmith.spec.build import dump, installed
from lensmith.spec.schema import json_schema
from lensmith_registry import Plugin

Told = Callable[..., str]
Write = Callable[[str, str], Path]

NESTED = """\
model:
  vision_encoder:
    name: fused
    encoders:
      - name: clip
        checkpoint: ./encoders/clip
      - {name: timm, model: test_resnet,
         grid: 2}
  image_splitter: pad
  connector: linear
  language_model: {name: llama, checkpoint: ../llama}
"""


class Several(ConnectorSpec):
    """Holds an encoder that may be missing, connectors by name, and a number."""

    helper: VisionEncoderSpec | None = None
    by_name: dict[str, ConnectorSpec] = Field({})
    width: int = 3


@pytest.fixture
def several() -> Registry:
    """What is installed and, from another package, a connector that holds parts of two kinds."""
    part = Component(
        kind=Kind.CONNECTOR,
        name="several",
        spec=Several,
        implementation="m:C",
        summary="x",
        distribution="theirs",
        version="2.0",
    )
    return Registry([*installed().plugins, Plugin("theirs", "theirs", "2.0", "m", components=(part,))])


@pytest.fixture
def file(write: Write) -> Path:
    return write("specs/nested.yaml", NESTED)


def test_paths_are_relative_to_the_file_and_everything_is_typed(file: Path) -> None:
    clip, timm = load_spec(file).model.vision_encoder.encoders  # type: ignore[attr-defined]
    assert (clip.name, clip.checkpoint, clip.select_layer) == ("clip", str(file.parent / "encoders" / "clip"), -2)
    assert (timm.name, timm.model, timm.grid) == ("timm", "test_resnet", 2)


def test_what_is_dumped_is_read_again(file: Path) -> None:
    spec = load_spec(file)
    data = dump(spec)
    assert data["model"]["vision_encoder"]["encoders"][1]["name"] == "timm"
    assert load_spec(data) == spec
    assert load_spec(spec, ["model.vision_encoder.encoders.1.grid=3"]) != spec


def test_every_mistake_is_told_with_its_path_and_line(told: Told, file: Path) -> None:
    text = file.read_text().replace("grid: 2", "grdi: 2, levels: []")
    file.write_text(text.replace("checkpoint: ./encoders/clip", "select_layer: x\n        checkpoint: c"))
    names = (
        "name, model, checkpoint, pretrained, image_size, levels, grid, normalize, mean, std, interpolation, crop_pct"
    )
    assert sorted(told(file).splitlines()) == [
        f"{file}:6: model.vision_encoder.encoders.0.select_layer: should be a valid integer;"
        " it is 'x' (Which hidden state is the output, of layers + 1)",
        f"{file}:9: model.vision_encoder.encoders.1.grdi: there is no such field. Did you mean 'grid'?"
        f" Fields here: {names}.",
        f"{file}:9: model.vision_encoder.encoders.1.levels: List should have at least 1 item after validation, not 0;"
        " it is [] (Feature levels, from fine to coarse, as `out_indices` of timm counts them)",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.vision_encoder.encoders.1.grid=0", "encoders.1.grid: should be greater than or equal to 1; it is 0"),
        (
            "model.vision_encoder.encoders.1=clipp",
            "encoders.1: no vision_encoder is called 'clipp'. Did you mean 'clip'",
        ),
        (
            "model.vision_encoder.encoders=[clip, {model: x}]",
            "encoders.1: say which vision_encoder by its name: one of blip2, clip, ",
        ),
        ("model.vision_encoder.encoders.1=mlp", "('mlp' is the name of a connector.)"),
        (
            "model.vision_encoder.encoders.1=fused",
            "encoders.1: vision_encoder 'fused' is made of parts itself and cannot be one of them; one of blip2, ",
        ),
        ("model.vision_encoder.encoders=[]", "encoders: List should have at least 2 items after validation, not 0"),
        ("model.vision_encoder.encoders=clip", "encoders: should be a valid list; it is 'clip'"),
        ("model.vision_encoder.encoders.2.grid=1", "model.vision_encoder.encoders has no item '2'; it has 2"),
    ],
)
def test_overrides_and_their_mistakes(told: Told, file: Path, override: str, message: str) -> None:
    text = told(file, override)
    assert text.startswith(f"override {override!r}: ")
    assert message in text


def test_overrides_reach_into_a_nested_part(file: Path) -> None:
    encoders = load_spec(
        file,
        [
            "model.vision_encoder.encoders.0.select_layer=-1",
            "model.vision_encoder.encoders.1.name=siglip",  # the fields of the one before do not apply to it
            "model.vision_encoder.encoders.1.checkpoint=google/siglip-base-patch16-224",
        ],
    ).model.vision_encoder.encoders  # type: ignore[attr-defined]
    assert (encoders[0].select_layer, encoders[1].name, encoders[1].select_layer) == (-1, "siglip", -2)
    file.write_text(file.read_text().replace("- {name: timm, model: test_resnet,\n         grid: 2}", "- timm"))
    encoders = load_spec(file, ["model.vision_encoder.encoders.1.model=test_vit"]).model.vision_encoder.encoders  # type: ignore[attr-defined]
    assert encoders[1].model == "test_vit"


def test_the_schema_shows_what_may_stand_there() -> None:
    definitions = json_schema(installed())["$defs"]
    encoders = definitions["FusedSpec"]["properties"]["encoders"]
    assert (encoders["type"], encoders["minItems"]) == ("array", 2)
    inside, alone = [
        {choice["$ref"].rpartition("/")[2] for choice in variant.get("oneOf", variant["anyOf"]) if "$ref" in choice}
        | {name for choice in variant["anyOf"] for name in choice.get("enum", [])}
        for variant in (flat(encoders["items"]), flat(definitions["ModelSpec"]["properties"]["vision_encoder"]))
    ]
    assert alone - inside == {"FusedSpec", "fused"}
    assert {"ClipSpec", "clip", "TimmSpec", "timm"} <= inside


def flat(schema: dict[str, Any]) -> dict[str, Any]:
    """A choice of a choice as one."""
    found: list[dict[str, Any]] = []
    for choice in schema["anyOf"]:
        found += choice.get("oneOf") or choice.get("anyOf") or [choice]
    return {"anyOf": found}


def test_a_strangers_part_holds_parts_too(file: Path, several: Registry) -> None:
    overrides = [
        "model.connector={name: several, helper: {name: clip, checkpoint: ./c}, by_name: {a: mlp, b: {name: linear}}}"
    ]
    spec = load_spec(file, overrides, several)
    found = {path: (kind, getattr(part, "name", "")) for path, kind, part in nested_parts(spec.model.connector)}
    assert found == {
        "helper": (Kind.VISION_ENCODER, "clip"),
        "by_name.a": (Kind.CONNECTOR, "mlp"),
        "by_name.b": (Kind.CONNECTOR, "linear"),
    }
    assert load_spec(dump(spec), registry=several) == spec
    for wrong, message in {
        "model.connector.by_name.a.depth=0": "model.connector.by_name.a.depth: should be greater than or equal to 1",
        "model.connector.by_name.b.dept=0": "model.connector.by_name.b.dept: there is no such field. Fields here: name",
        "model.connector.by_name.b.name=several": "connector 'several' is made of parts itself",
        "model.connector.helper.checkpoint=3": "model.connector.helper.checkpoint: should be a path, as text; it is 3",
        "model.connector.helper=fused": "vision_encoder 'fused' is made of parts itself and cannot be one of them",
        "model.connector.width=x": "model.connector.width: should be a valid integer",
    }.items():
        override = overrides[0].replace("a: mlp", "a: {name: mlp}")
        with pytest.raises(SpecError) as caught:
            load_spec(file, [override, wrong], several)
        assert message in str(caught.value)


def test_a_spec_made_in_python_keeps_its_parts(file: Path, several: Registry) -> None:
    clip = installed().get(Kind.VISION_ENCODER, "clip").spec
    data = dump(load_spec(file))
    data["model"]["connector"] = Several(helper=clip(checkpoint="a/b", select_layer=-3), width=5)  # type: ignore[arg-type, call-arg]
    connector = load_spec(data, registry=several).model.connector
    assert (connector.helper.name, connector.helper.select_layer) == ("clip", -3)  # type: ignore[attr-defined]
    assert connector.width == 5  # type: ignore[attr-defined]
    assert Several.model_fields["helper"].annotation == VisionEncoderSpec | None  # the class itself is as it was


def test_checking_nested_parts_needs_no_torch(file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"image_size": 28, "patch_size": 14}')
    code = (
        "import sys; from lensmith.spec.build import load_spec; from lensmith.spec.check import check;"
        f"encoders = [{{'name': n, 'config': {str(tmp_path)!r}}} for n in ('clip', 'siglip', 'dinov2')];"
        f"spec = load_spec({str(file)!r}); data = spec.model_dump(mode='json');"
        "data['model']['vision_encoder']['encoders'] = encoders;"
        "shape = load_spec(data).model.vision_encoder.shape(); print(shape.width, shape.channels);"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{3 * 768} 9\n", "")
