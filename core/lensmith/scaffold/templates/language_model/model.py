"""The network behind input embeddings. Imported when the model is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from lensmith import GenerationOptions, LanguageModel, LanguageShape, Loading, parameter_shapes

from .spec import ExamplePartSpec
from .tokenizer import ExamplePartTokenizer


class ExamplePartModel(LanguageModel):
    """A decoder of transformers whose attention takes a mask for each pair of positions, as LLaMA's does."""

    tokenizer: ExamplePartTokenizer
    network: Any

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        config = self.network.config
        head = self.network.get_output_embeddings().weight
        heads = config.num_attention_heads
        self.shape = LanguageShape(
            width=config.hidden_size,
            vocabulary=head.shape[0],
            context_length=config.max_position_embeddings,
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
            intermediate=config.intermediate_size,
            parameters=parameter_shapes(self),
            head=next(name for name, tensor in self.named_parameters() if tensor is head),
        )

    @classmethod
    def build(cls, spec: ExamplePartSpec, loading: Loading) -> ExamplePartModel:
        """Build from the spec and load its weights."""
        options: dict[str, Any] = {"dtype": loading.dtype, "attn_implementation": "sdpa", "trust_remote_code": False}
        if loading.weights:
            network = AutoModelForCausalLM.from_pretrained(spec.checkpoint, **options, **loading.options)
        else:
            config = AutoConfig.from_pretrained(spec.checkpoint, trust_remote_code=False)
            network = AutoModelForCausalLM.from_config(config, **options)
        model = cls(network)
        model.tokenizer = cls.load_tokenizer(spec)
        return model

    @classmethod
    def load_tokenizer(cls, spec: ExamplePartSpec) -> ExamplePartTokenizer:
        """The tokenizer alone, for commands that need no weights."""
        return ExamplePartTokenizer(spec.tokenizer or spec.checkpoint)

    @classmethod
    def measure(cls, spec: ExamplePartSpec) -> LanguageShape:
        """Sizes without weights."""
        config = AutoConfig.from_pretrained(spec.checkpoint, trust_remote_code=False)
        with torch.device("meta"):
            return cls(AutoModelForCausalLM.from_config(config, trust_remote_code=False)).shape

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: ids (…) to (…, D)."""
        embeds: Tensor = self.network.get_input_embeddings()(ids)
        return embeds

    def forward(self, embeds: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """Decode: embeds (B, T, D) to hidden states (B, T, D); a position sees what is earlier in its own segment."""
        seen = (segments[:, :, None] == segments[:, None, :]).tril()[:, None]  # (B, 1, T, T)
        hidden: Tensor = self.network.get_decoder()(
            inputs_embeds=embeds, attention_mask=seen, position_ids=positions, use_cache=False
        ).last_hidden_state
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, vocabulary) of hidden states (…, D)."""
        logits: Tensor = self.network.get_output_embeddings()(hidden)
        return logits

    @torch.no_grad()
    def generate(
        self,
        embeds: Tensor,
        mask: Tensor,
        options: GenerationOptions,
        on_token: Callable[[int], None] | None = None,
    ) -> list[Sequence[int]]:
        """Continue prompts (B, T, D), padded on the left; the new ids of each row, without the end token."""
        end, pad = self.tokenizer.eos_id, self.tokenizer.pad_id
        config = GenerationConfig(
            max_new_tokens=options.max_new_tokens, num_beams=options.beams, eos_token_id=end, pad_token_id=pad
        )
        if options.temperature > 0:
            config.update(do_sample=True, temperature=options.temperature, top_p=options.top_p, top_k=0)
        if options.stop:
            config.stop_strings = list(options.stop)

        def tell(ids: Tensor) -> None:
            for token in ids.flatten().tolist():
                if on_token is not None and token != end:
                    on_token(token)

        single = on_token is not None and len(embeds) == 1 and options.beams == 1
        live = single and not options.stop  # a stop text takes back what came before it was whole
        rows = self.network.generate(
            inputs_embeds=embeds,
            attention_mask=mask.long(),
            generation_config=config,
            tokenizer=self.tokenizer.fast,
            streamer=SimpleNamespace(put=tell, end=lambda: None) if live else None,
        )
        ended = [list(takewhile(lambda token: token != end, row)) for row in rows.tolist()]
        answers: list[Sequence[int]] = [self._cut(row, options.stop) for row in ended]
        if single and not live:
            tell(torch.tensor(answers[0]))
        return answers

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write a folder that `build` and plain transformers load; `state` has weights that are sharded over ranks."""
        weights = self.state_dict() if state is None else state
        own = {name.removeprefix("network."): tensor for name, tensor in weights.items()}
        self.network.save_pretrained(folder, state_dict=own)
        self.tokenizer.save(folder)

    def _cut(self, ids: list[int], stops: Sequence[str]) -> list[int]:
        """An answer up to where a stop text begins."""
        text = self.tokenizer.decode(ids)
        end = min((text.find(stop) for stop in stops if stop in text), default=len(text))
        while len(self.tokenizer.decode(ids)) > end:
            ids = ids[:-1]
        return ids
