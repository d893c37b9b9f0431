"""Settings that clients of OpenAI, vLLM, llama.cpp, SGLang, Ollama and transformers send, and what becomes of each.

What would change an answer and is not served is refused by name, so that nobody takes an answer for another; what has
no say in it is let through. The lists are data: a setting that is missing here is refused as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from lensmith.serving.failures import RequestError

NEUTRAL: dict[str, tuple[Any, ...]] = {
    # OpenAI
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "reasoning": ({},),
    "verbosity": ("medium",),
    "moderation": (),
    # vLLM
    "best_of": (1,),
    "use_beam_search": (False,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "truncation_side": (),
    "prompt_logprobs": (0, False),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "documents": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
    "logits_processors": ([],),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "include_reasoning": (True, False),
    "thinking_token_budget": (),
    "repetition_detection": (),
    "kv_transfer_params": (),
    "vllm_xargs": ({},),
    # llama.cpp
    "repeat_penalty": (1,),
    "typical_p": (1,),
    "tfs_z": (1,),
    "top_n_sigma": (-1, 0),
    "dynatemp_range": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "mirostat": (0,),
    "grammar": ("",),
    "grammar_triggers": ([],),
    "json_schema": (),
    "samplers": (),
    "n_probs": (0,),
    "post_sampling_probs": (False,),
    "n_keep": (0, -1),
    "n_indent": (0,),
    "t_max_predict_ms": (0, -1),
    "lora": ([],),
    "return_tokens": (False,),
    "reasoning_format": ("none", "auto"),
    "reasoning_budget": (),
    "thinking_forced_open": (False,),
    "speculative.n_max": (),
    "image_data": ([],),
    "prompt": (),
    # SGLang
    "regex": (),
    "ebnf": (),
    "stop_regex": ([],),
    "no_stop_trim": (False,),
    "custom_logit_processor": (),
    "custom_params": ({},),
    "lora_path": (),
    "separate_reasoning": (True, False),
    "stream_reasoning": (True, False),
    "return_hidden_states": (False,),
    "session_params": ({},),
    "sampling_params": ({},),
    # Ollama, text-generation-inference, transformers
    "options": ({},),
    "format": ("",),
    "think": (False,),
    "enable_thinking": (False,),
    "adapter_id": (),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "diversity_penalty": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "penalty_alpha": (0,),
    "min_new_tokens": (0,),
    "min_length": (0,),
    "top_a": (0,),
    "smoothing_factor": (0,),
    "watermark": (False,),
}
"""What would change an answer and is not served, with the values that change nothing (null never does)."""

HARMLESS = frozenset(
    [
        # who asks, and how it is kept
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "request_id",
        "rid",
        "id",
        "chat_id",
        "session_id",
        "conversation_id",
        "priority",
        "cache_salt",
        "cache_prompt",
        "id_slot",
        "slot_id",
        "keep_alive",
        "timings_per_token",
        "return_progress",
        "data_parallel_rank",
        "extra_key",
        "trace_id",
        # of no effect while what they belong to is off
        "repeat_last_n",
        "penalize_nl",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "xtc_threshold",
        "mirostat_tau",
        "mirostat_eta",
        "dynatemp_exponent",
        "min_keep",
        "n_discard",
        "response_fields",
        "grammar_lazy",
        "preserved_tokens",
    ]
)
"""What has no say in an answer."""

CALLED = {
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "until": "stop",
    "random_seed": "seed",
    "sampling_seed": "seed",
    "temp": "temperature",
    "images": "messages, with a part of type image_url",
    "system": "messages, with the role system",
    "input": "messages",
}
"""What other interfaces call a setting that is served."""


def refuse_unserved(given: Mapping[str, Any], served: Iterable[str], place: str = "") -> None:
    """Refuse what would change the answer and is not served, and what nobody knows.

    Args:
        given: fields besides those that are served.
        served: names of those.
        place: of the object that holds them, with a dot behind it.

    Raises:
        RequestError: naming the first.
    """
    for name, value in given.items():
        if value is None or name in HARMLESS:
            continue
        if name in CALLED:
            raise _unsupported(f"{place}{name} is called {CALLED[name]} here; give that", place + name)
        if name not in NEUTRAL:
            close = get_close_matches(name, [*served, *NEUTRAL, *CALLED], 1, 0.75)
            meant = f"did you mean {CALLED.get(close[0], close[0])}?" if close else "leave it out"
            raise _unsupported(f"{place}{name:.80} is no setting that this server knows; {meant}", place + name[:80])
        if not any(_same(one, value) for one in NEUTRAL[name]):
            allowed = f"leave it out or give {NEUTRAL[name][0]!r}" if NEUTRAL[name] else "leave it out"
            raise _unsupported(f"{place}{name} is not served; {allowed}", place + name)


def refuse_unknown(given: Mapping[str, Any], harmless: Iterable[str], served: Iterable[str], place: str) -> None:
    """Refuse fields of a message or a part that are not looked at, where they say something.

    Args:
        given: fields besides those that are served.
        harmless: what has no say.
        served: names of those that are served.
        place: of the object.

    Raises:
        RequestError: naming the first.
    """
    harmless = set(harmless)
    for name, value in given.items():
        if name in harmless or value in (None, "", [], {}):
            continue
        close = get_close_matches(name, [*served], 1, 0.75)
        meant = f"did you mean {close[0]}?" if close else "leave it out"
        raise _unsupported(f"{place}.{name:.80} is not served; {meant}", f"{place}.{name:.80}")


def _same(neutral: Any, value: Any) -> bool:
    return bool(neutral == value) and isinstance(neutral, bool) == isinstance(value, bool)


def _unsupported(text: str, param: str) -> RequestError:
    return RequestError(text, param=param, code="unsupported_parameter")
