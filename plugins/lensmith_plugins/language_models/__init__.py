"""Language models: LLaMA, Vicuna and any other that transformers loads, all through one wrapper."""

from __future__ import annotations

from collections.abc import Iterable

from lensmith import Component, Kind, Probe, hookimpl
from lensmith_plugins.compat import offered

__all__ = ["api_version", "lensmith_components"]

api_version = 1

_IMPLEMENTATION = "lensmith_plugins.language_models.hf:HfCausalLanguageModel"


@hookimpl
def lensmith_components() -> Iterable[Component]:
    """The language models of this package."""
    return [
        Component(
            kind=Kind.LANGUAGE_MODEL,
            name="llama",
            known_as=dict.fromkeys(
                (
                    "llama*",
                    "meta_llama*",
                    "llava_llama*",
                ),
                "{name: llama, checkpoint: …}",
            ),
            spec="lensmith_plugins.language_models.specs:LlamaSpec",
            implementation=_IMPLEMENTATION,
            summary="LLaMA 1, 2, 3 and models of their architecture",
            paper="LLaMA (Touvron et al. 2023, arXiv 2302.13971); 2 (arXiv 2307.09288); 3 (arXiv 2407.21783)",
            example="name: llama\ncheckpoint: meta-llama/Llama-2-13b-chat-hf\ntokenization: sentencepiece\n",
        ),
        Component(
            kind=Kind.LANGUAGE_MODEL,
            name="vicuna",
            known_as=dict.fromkeys(
                (
                    "vicuna*",
                    "lmsys*",
                ),
                "{name: vicuna, checkpoint: …}",
            ),
            spec="lensmith_plugins.language_models.specs:VicunaSpec",
            implementation=_IMPLEMENTATION,
            summary="Vicuna 1.1, 1.3 and 1.5, LLaVA's language models",
            paper="Vicuna (Chiang et al. 2023; Zheng et al. 2023, arXiv 2306.05685)",
            example="name: vicuna\ncheckpoint: lmsys/vicuna-13b-v1.5\n",
        ),
        Component(
            kind=Kind.LANGUAGE_MODEL,
            name="hf_causal",
            known_as=dict.fromkeys(
                (
                    "qwen*",
                    "mistral*",
                    "mixtral*",
                    "phi*",
                    "gemma*",
                    "internlm*",
                    "smollm*",
                    "deepseek*",
                    "yi*",
                    "opt*",
                    "gpt*",
                    "mpt*",
                    "olmo*",
                    "falcon*",
                    "auto*",
                    "causal_lm",
                    "hf",
                    "llava_qwen*",
                    "llava_mistral*",
                ),
                "{name: hf_causal, checkpoint: …}",
            ),
            spec="lensmith_plugins.language_models.specs:HfCausalSpec",
            implementation=_IMPLEMENTATION,
            summary="any causal language model that transformers loads",
            paper="transformers (Wolf et al. 2020, arXiv 1910.03771)",
            example="name: hf_causal\ncheckpoint: Qwen/Qwen2.5-7B-Instruct\nadd_tokens: [<im_start>, <im_end>]\n",
        ),
    ]


@hookimpl
def lensmith_probes() -> Iterable[Probe]:
    """What the parts of all our kinds need of the libraries below them."""
    return offered()
