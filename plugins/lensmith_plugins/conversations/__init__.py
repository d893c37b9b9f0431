"""Plugin: prompt templates."""

from __future__ import annotations

from collections.abc import Iterable

from lensmith import Component, Kind, hookimpl

__all__ = ["api_version", "lensmith_components"]

api_version = 1

_HERE = "lensmith_plugins.conversations"
_LLAVA = "LLaVA (Liu et al. 2023, arXiv 2304.08485), released code"
_LLAVA_1_5 = "LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744), released code"


@hookimpl
def lensmith_components() -> Iterable[Component]:
    """The prompt templates of this package."""
    return [
        Component(
            kind=Kind.CONVERSATION,
            name="plain",
            known_as=dict.fromkeys(
                (
                    "v0_plain",
                    "llava_plain",
                    "pretrain",
                ),
                "plain",
            ),
            spec="lensmith_plugins.conversations.specs:PlainSpec",
            implementation=f"{_HERE}.plain:PlainConversation",
            summary="picture, then caption: the first stage of LLaVA",
            paper="LLaVA (Liu et al. 2023, arXiv 2304.08485), section 4.2: pre-training for feature alignment",
            example="name: plain\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="vicuna_v1",
            known_as=dict.fromkeys(
                (
                    "v1",
                    "vicuna*",
                ),
                "vicuna_v1",
            ),
            spec="lensmith_plugins.conversations.specs:VicunaSpec",
            implementation=f"{_HERE}.vicuna:VicunaConversation",
            summary="USER: … ASSISTANT: …</s>, as Vicuna 1.1 and later and LLaVA-1.5",
            paper="Vicuna 1.1 (LMSYS, FastChat); " + _LLAVA_1_5 + " (`v1`)",
            example="name: vicuna_v1\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="llava_v1",
            spec="lensmith_plugins.conversations.specs:LlavaV1Spec",
            implementation=f"{_HERE}.vicuna:VicunaConversation",
            summary="vicuna_v1 with a system text about a human: LLaVA's demo and command line",
            paper=_LLAVA_1_5,
            example="name: llava_v1\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="v1_mmtag",
            spec="lensmith_plugins.conversations.specs:V1MmtagSpec",
            implementation=f"{_HERE}.vicuna:VicunaConversation",
            summary="vicuna_v1 with <Image> and </Image> around pictures",
            paper=_LLAVA,
            example="name: v1_mmtag\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="v0",
            spec="lensmith_plugins.conversations.specs:V0Spec",
            implementation=f"{_HERE}.human_assistant:HumanAssistantConversation",
            summary="llava_v0 after an example question and answer, as Vicuna 0",
            paper="Vicuna 0 (LMSYS, FastChat); " + _LLAVA,
            example="name: v0\nseed: true\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="llava_v0",
            spec="lensmith_plugins.conversations.specs:HumanAssistantSpec",
            implementation=f"{_HERE}.human_assistant:HumanAssistantConversation",
            summary="### Human: … ### Assistant: …, the first LLaVA",
            paper=_LLAVA,
            example="name: llava_v0\nform: original\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="v0_mmtag",
            spec="lensmith_plugins.conversations.specs:V0MmtagSpec",
            implementation=f"{_HERE}.human_assistant:HumanAssistantConversation",
            summary="llava_v0 with <Image> and </Image> around pictures",
            paper=_LLAVA,
            example="name: v0_mmtag\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="llama_2",
            known_as=dict.fromkeys(("llama2*",), "llama_2"),
            spec="lensmith_plugins.conversations.specs:Llama2Spec",
            implementation=f"{_HERE}.llama2:Llama2Conversation",
            summary="[INST] … [/INST] … </s>, as LLaMA-2-chat",
            paper="Llama 2 (Touvron et al. 2023, arXiv 2307.09288), section 3.3 and the released code",
            example="name: llama_2\nsystem: Answer in one sentence.\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="llava_llama_2",
            spec="lensmith_plugins.conversations.specs:LlavaLlama2Spec",
            implementation=f"{_HERE}.llama2:Llama2Conversation",
            summary="llama_2 with LLaVA's system text",
            paper=_LLAVA,
            example="name: llava_llama_2\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="mistral_instruct",
            known_as=dict.fromkeys(("mistral*",), "mistral_instruct"),
            spec="lensmith_plugins.conversations.specs:MistralInstructSpec",
            implementation=f"{_HERE}.llama2:Llama2Conversation",
            summary="[INST] … [/INST] … </s> without a system text, as LLaVA-1.6 on Mistral",
            paper="Mistral 7B (Jiang et al. 2023, arXiv 2310.06825); LLaVA-1.6, released code",
            example="name: mistral_instruct\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="chatml",
            known_as=dict.fromkeys(
                (
                    "qwen*",
                    "chatml_*",
                ),
                "chatml",
            ),
            spec="lensmith_plugins.conversations.specs:ChatmlSpec",
            implementation=f"{_HERE}.chatml:ChatmlConversation",
            summary="<|im_start|>role … <|im_end|>, as Qwen and SmolLM2",
            paper="Chat Markup Language (OpenAI 2023); Qwen (Bai et al. 2023, arXiv 2309.16609)",
            example="name: chatml\nsystem: You are a helpful assistant.\n",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="tokenizer",
            known_as=dict.fromkeys(
                (
                    "auto",
                    "hf",
                    "chat_template",
                    "llama3*",
                    "llama_3*",
                    "gemma*",
                    "phi*",
                ),
                "tokenizer",
            ),
            spec="lensmith_plugins.conversations.specs:TokenizerSpec",
            implementation=f"{_HERE}.tokenizer:TokenizerConversation",
            summary="the chat template that came with the language model's tokenizer",
            paper="Chat templates of Hugging Face transformers (Wolf et al. 2020, arXiv 1910.03771)",
            example="name: tokenizer\nsystem: Answer in one sentence.\n",
        ),
    ]
