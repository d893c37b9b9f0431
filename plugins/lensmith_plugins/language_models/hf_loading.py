"""Weights of a Hugging Face causal model: from a folder, a hub id, a `.gguf` file, or random."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.initialization import no_init_weights

from lensmith import Loading
from lensmith.checkpoints import check_indexes, is_hub_id
from lensmith.parts import in_one_line
from lensmith_plugins.compat.quiet import quiet
from lensmith_plugins.language_models.cut import check_cut, cut
from lensmith_plugins.language_models.gguf_header import is_gguf
from lensmith_plugins.language_models.specs import CausalSpec
from lensmith_plugins.own_code import code_not_run


def load_network(spec: CausalSpec, loading: Loading) -> Any:
    """The `AutoModelForCausalLM` that a spec describes.

    Raises:
        OSError: weights or config that are not there.
        ValueError: weights that are missing from the checkpoint or of another shape, by name; an architecture that
            the spec excludes; an attention implementation that the architecture or this machine does not have.
    """
    source = spec.checkpoint if loading.weights else None
    try:
        with quiet(progress=source is not None and is_hub_id(source) and not Path(source).exists()):
            network = _structure(spec, loading) if source is None else _pretrained(spec, source, loading)
    except (ImportError, ValueError) as error:
        # transformers says it by its own argument's name, in several ways.
        if "attn_implementation" in str(error) or "FlashAttention" in str(error):
            raise ValueError(
                f"attention {spec.attention!r} cannot be had for {spec.config_source()}; set"
                f" `model.language_model.attention` to `eager` (transformers: {str(error).splitlines()[0][:120]})"
            ) from error
        if "Unrecognized configuration class" in str(error):  # followed by the names of all that there are
            raise ValueError(
                f"{spec.config_source()} is no causal language model; transformers has none for it"
            ) from error
        if "\n" in str(error):
            raise ValueError(f"{source or spec.config_source()}: {in_one_line(error)}") from error
        raise
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of a file that is empty, cut off or not what its name says: any
        if "alloc" in str(error):
            raise
        where = source or spec.config_source()
        raise ValueError(f"{where} cannot be loaded by transformers: {in_one_line(error)}") from error
    spec.check_architecture(network.config.model_type)
    vars(network.config).pop("auto_map", None)  # an artifact names no code
    # A checkpoint's own sampling defaults are neither obeyed nor published.
    ids = {key: getattr(network.config, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    network.generation_config = GenerationConfig(**ids)
    return network


def _structure(spec: CausalSpec, loading: Loading) -> Any:
    """The modules from the config alone: with random weights, or left as they are where weights follow."""
    source = spec.config_source()
    with code_not_run(source):
        config = AutoConfig.from_pretrained(**_location(source), trust_remote_code=False)
    spec.check_architecture(config.model_type)
    # Weights of a structure are ordinary ones, however the checkpoint stores them.
    vars(config).pop("quantization_config", None)
    whole, config = config, cut(config, spec.layers, source)
    with contextlib.nullcontext() if loading.weights else no_init_weights():
        network = AutoModelForCausalLM.from_config(
            config, dtype=loading.dtype, attn_implementation=spec.attention, trust_remote_code=False
        )
    if not loading.weights:
        network.tie_weights()
    elif spec.layers is not None:
        check_cut(network, whole, source)
    return network


def _pretrained(spec: CausalSpec, source: str, loading: Loading) -> Any:
    check_indexes(Path(source))
    # The bar over a .gguf file's tensors does not heed the switch for progress bars.
    silent = contextlib.redirect_stderr(io.StringIO()) if is_gguf(source) else contextlib.nullcontext()
    with code_not_run(source), silent:
        whole, chosen = None, {}
        if spec.layers is not None:
            whole = AutoConfig.from_pretrained(**_location(source), trust_remote_code=False)
            chosen = {"config": cut(whole, spec.layers, source)}
        network, info = AutoModelForCausalLM.from_pretrained(
            **_location(source),
            dtype=loading.dtype,
            attn_implementation=spec.attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they can be named below
            trust_remote_code=False,
            **chosen,
            **loading.options,
        )
    problems = []
    if missing := sorted(info["missing_keys"]):
        problems.append(f"lacks {some(missing)}")
    if wrong := sorted(info["mismatched_keys"], key=lambda entry: str(entry[0])):
        told = [f"{name} is {tuple(have)}, not {tuple(want)}" for name, have, want in wrong]
        problems.append(f"does not fit its config: {some(told)}")
    if problems:
        raise ValueError(f"{source} {' and '.join(problems)}")
    if is_gguf(source):
        _forget_quantisation(network)
    if whole is not None:
        check_cut(network, whole, source)
    return network


def _location(source: str) -> dict[str, str]:
    """Where `from_pretrained` finds a checkpoint or config."""
    path = Path(source)
    if not path.exists() and (is_gguf(source) or not is_hub_id(source)):
        raise FileNotFoundError(f"{path} does not exist; give a local folder, a .gguf file or a hub id 'owner/name'")
    if is_gguf(source):
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return {"pretrained_model_name_or_path": source}


def _forget_quantisation(network: Any) -> None:
    """Weights from a `.gguf` file have been expanded; what says otherwise would forbid saving them."""
    vars(network.config).pop("quantization_config", None)
    for attribute, value in (("hf_quantizer", None), ("is_quantized", False), ("quantization_method", None)):
        setattr(network, attribute, value)


def published_dtype(spec: CausalSpec) -> torch.dtype:
    """The floating type in which a checkpoint's weights are published, by its config; fp32 where that does not say."""
    config = spec.read_config()
    named = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."), None)
    return named if isinstance(named, torch.dtype) else torch.float32


def some(names: Iterable[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
