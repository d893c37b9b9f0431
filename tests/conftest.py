"""Tiny real parts: two layers, 32 wide, saved as anybody's checkpoint would be, with real pictures and rows."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import deprecations

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
deprecations.watch()  # before a library binds `warnings.warn`

_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD]


def pytest_configure() -> None:
    """Tests send signals to themselves and to commands they start: none depends on what the parent had them ignore.

    A shell ignores SIGINT for what it starts in the background, `nohup` SIGHUP, and both are inherited.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


_INTERFACES = (
    "plugins/connectors",
    "plugins/formats",
    "plugins/language_models",
    "plugins/tuners",
    "plugins/vision_encoders",
    "core/model",
    "core/training/test_options.py",
    "core/training/test_two_stages.py",
    "core/test_compat.py",
)
"""What calls into other libraries most: `.ci/run` runs these with the newest versions of everything too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `_INTERFACES`."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).as_posix().startswith(_INTERFACES):
            item.add_marker("interfaces")


@pytest.fixture(autouse=True)
def _no_deprecated_calls() -> Iterator[None]:
    """Fails a test in which our modules call what a library has deprecated."""
    yield
    if calls := list(deprecations.failures()):
        pytest.fail("deprecated calls of ours:\n" + "\n".join(calls))


SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[2] / "shared"))
COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220)}


@pytest.fixture(scope="session")
def shared() -> Path:
    """Outputs of the original code; tests that compare with them need the folder."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no golden data at {SHARED}; set LENSMITH_SHARED to the folder that holds golden/ and tokenizer/")
    return SHARED


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP vision model: 3 layers, 32 wide, 28 px, 2 x 2 patches of 14 px."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
        projection_dim=16,
    )
    CLIPVisionModel(config).save_pretrained(folder)
    processor = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="session")
def tiny_language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA: 2 layers, 32 wide, with a byte-level tokenizer trained on a few words, ChatML's tokens included."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("language_model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = ["USER: What colour is it? ASSISTANT: red green blue user assistant"] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=256
    )
    fast.save_pretrained(folder)
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows about pictures of one colour, and two without a picture, as JSON lines beside the pictures."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("rows")
    lines: list[dict[str, Any]] = []
    for number in range(12):
        name, color = list(COLORS.items())[number % 3]
        Image.new("RGB", (40 + number, 30), color).save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nWhat colour is it?"},
            {"from": "gpt", "value": name},
        ]
        lines.append({"id": f"row-{number}", "image": f"{number}.png", "conversations": turns})
    for number in range(2):
        turns = [{"from": "human", "value": f"Say {number}."}, {"from": "gpt", "value": f"it is {number}"}]
        lines.append({"id": f"text-{number}", "conversations": turns})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="session")
def model_spec(tiny_encoder: Path, tiny_language_model: Path) -> dict[str, Any]:
    """The model section of `spec`, for fixtures that live longer than a test."""
    return {
        "vision_encoder": {"name": "clip", "checkpoint": str(tiny_encoder)},
        "image_splitter": "pad",
        "connector": {"name": "mlp", "depth": 2},
        "language_model": {"name": "llama", "checkpoint": str(tiny_language_model)},
        "conversation": "chatml",
    }


@pytest.fixture
def spec(model_spec: dict[str, Any], rows: Path) -> dict[str, Any]:
    """A whole spec of the tiny parts: two stages, connector then adapters."""
    data = {"sources": [{"path": str(rows)}]}
    return {
        "model": copy.deepcopy(model_spec),
        "stages": {
            "align": {"tuner": "frozen", "data": data, "lr": 1e-3, "batch": {"size": 4}, "precision": "fp32"},
            "tune": {
                "tuner": {"name": "lora", "rank": 4, "connector_lr": 5e-4},
                "data": data,
                "lr": 1e-3,
                "batch": {"size": 4, "micro": 2},
                "precision": "fp32",
                "gradient_clipping": 1.0,
            },
        },
    }


@pytest.fixture
def spec_file(spec: dict[str, Any], tmp_path: Path) -> Path:
    """The same spec as a file."""
    file = tmp_path / "run.json"
    file.write_text(json.dumps(spec))
    return file


@pytest.fixture
def light_spec(tmp_path: Path) -> dict[str, Any]:
    """A spec that is right and whose checkpoints are config files alone: enough for `check`, and made without torch.

    The encoder is 48 wide with 2 x 2 tokens, the language model 32 wide with 64 positions.
    """
    encoder = {"model_type": "clip_vision_model", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    encoder |= {"intermediate_size": 64, "image_size": 28, "patch_size": 14}
    language = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    language |= {"num_attention_heads": 4, "vocab_size": 330, "max_position_embeddings": 64}
    for folder, config in (("encoder", encoder), ("language", language)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return {
        "model": {
            "vision_encoder": {"name": "clip", "checkpoint": str(tmp_path / "encoder")},
            "image_splitter": "pad",
            "connector": "mlp",
            "language_model": {"name": "llama", "checkpoint": str(tmp_path / "language")},
            "conversation": "chatml",
        },
        "stages": {"align": {"tuner": "frozen", "data": {"sources": str(tmp_path / "rows.jsonl")}}},
    }
