"""Any Hugging Face causal language model behind input embeddings. One class for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensmith import GenerationOptions, LanguageModel, LanguageShape, Loading, Memory, parameter_shapes
from lensmith.parts import in_one_line
from lensmith_plugins.compat.quiet import quiet
from lensmith_plugins.compat.transformers import cache_keyword, checkpoint_activations
from lensmith_plugins.language_models.added_tokens import add_rows, grow, with_added_tokens
from lensmith_plugins.language_models.answers import (
    StopAtTexts,
    TokenStreamer,
    generation_config,
    split_stops,
    trim,
)
from lensmith_plugins.language_models.exactness import check_exact
from lensmith_plugins.language_models.gguf_header import is_gguf
from lensmith_plugins.language_models.heads import LogitRule, logit_rule
from lensmith_plugins.language_models.hf_loading import load_network, published_dtype, some
from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer
from lensmith_plugins.language_models.memory import DecoderMemory, masks
from lensmith_plugins.language_models.packing import AttentionPlan, one_segment_a_row
from lensmith_plugins.language_models.recomputing import recompute_frozen
from lensmith_plugins.language_models.segments import NAME, in_one_row, keep_uncompiled
from lensmith_plugins.language_models.shapes import language_shape
from lensmith_plugins.language_models.specs import CausalSpec, LlamaSpec
from lensmith_plugins.language_models.tokenizer_files import tokenizer_config
from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer
from lensmith_plugins.language_models.vocabulary import ADDED


class HfCausalLanguageModel(LanguageModel):
    """A causal model of transformers: `embed`, decode, `head`.

    Args:
        network: an `AutoModelForCausalLM`.
        tokenizer: its tokenizer; None only where nothing but sizes is asked.
        context_length: instead of what its config says.
    """

    network: Any

    def __init__(self, network: Any, tokenizer: HfTokenizer | None, context_length: int | None = None) -> None:
        super().__init__()
        self.network = network
        if tokenizer is not None:
            self.tokenizer = tokenizer
        self.shape = _shape(self, context_length)
        if tokenizer is not None:
            self.shape = replace(self.shape, added=len(tokenizer.appended))
        config = network.config.get_text_config()
        if self._decoder() is network:
            raise ValueError(
                f"transformers does not say which module of a {config.model_type!r} model is its decoder, so it cannot"
                " be used through input embeddings"
            )
        self._rule = logit_rule(config)
        self._takes_positions = "position_ids" in inspect.signature(type(self._decoder()).forward).parameters
        self._plan = AttentionPlan.of(config, config._attn_implementation) if self._takes_positions else None
        self._remembers = self._plan
        self._segmented = self._plan is not None and _attend_by_segments(network)

    @classmethod
    def build(cls, spec: CausalSpec, loading: Loading) -> HfCausalLanguageModel:
        """See `LanguageModel.build`.

        Raises:
            OSError: weights, config or tokenizer that are not there.
            ValueError: weights that do not fit, naming the tensors; an architecture that the spec excludes, or that
                is more than embeddings, decoder and head; a tokenizer of another model.
        """
        tokenizer = cls.load_tokenizer(spec)
        network = load_network(spec, loading)
        add_rows(network, {token: tokenizer.added[token] for token in tokenizer.appended}, published_dtype(spec))
        _check_ids(tokenizer, network)
        model = cls(network, tokenizer, spec.context_length)
        if loading.weights:
            check_exact(model)
        return model

    @classmethod
    def load_tokenizer(cls, spec: CausalSpec) -> HfTokenizer:
        """See `LanguageModel.load_tokenizer`."""
        source = spec.tokenizer_source()
        tokenization = spec.tokenization if isinstance(spec, LlamaSpec) else "auto"
        try:
            tokenizer = load_tokenizer(source, parse_special_text=spec.parse_special_text, tokenization=tokenization)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # of a file that is not what its name says: any
            if isinstance(error, ValueError) and "\n" not in str(error):
                raise
            raise ValueError(f"{source}: its tokenizer cannot be read: {in_one_line(error)}") from error
        if spec.padding is not None and (pad := tokenizer.token_id(spec.padding)) is not None:
            tokenizer.pad_id = pad
        held = [] if is_gguf(source) else tokenizer_config(source).get(ADDED, [])
        return with_added_tokens(tokenizer, spec.add_tokens, held)

    @classmethod
    def measure(cls, spec: CausalSpec) -> LanguageShape:
        """See `LanguageModel.measure`; needs no tokenizer."""
        with torch.device("meta"):
            network = load_network(spec, Loading(weights=False))
            grow(network, spec.rows(network.get_input_embeddings().weight.shape[0]))
            return replace(cls(network, None, spec.context_length).shape, added=spec.added())

    def unpack(self) -> None:
        """From now on, give samples that are packed into a row rows of their own."""
        self._plan = None

    def forget(self) -> None:
        """From now on, have no memory."""
        self._remembers = None

    def embed(self, ids: Tensor) -> Tensor:
        """See `LanguageModel.embed`.

        What the decoder gets, picture features among it, is what these return. Gemma's embeddings are scaled by √D
        here and not in its decoder, so its features are not scaled; Granite's decoder scales all that it gets.
        """
        embeds: Tensor = self.network.get_input_embeddings()(ids)
        return embeds

    def forward(self, embeds: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """See `LanguageModel.forward`."""
        if int(segments.max()) <= 1:
            return self._decode(embeds, positions, segments > 0)
        plan = self._plan
        if plan is None:
            return one_segment_a_row(self._decode, embeds, positions, segments)
        if self._segmented:
            return in_one_row(lambda e, p, starts: self._run(e, p, plan.borders(starts)), embeds, positions, segments)
        return self._run(embeds, positions, plan.masks(segments, embeds.dtype))

    def head(self, hidden: Tensor) -> Tensor:
        """See `LanguageModel.head`."""
        return self._rule(self.network.get_output_embeddings()(hidden))

    def projection(self) -> nn.Linear | None:
        """See `LanguageModel.projection`. Not a layer that is wrapped, quantised or hooked."""
        layer = self.network.get_output_embeddings()
        hooked = layer._forward_hooks or layer._forward_pre_hooks
        return layer if type(layer) is nn.Linear and not hooked and self._rule == LogitRule() else None

    def memory(self) -> DecoderMemory | None:
        """See `LanguageModel.memory`. None where masks by positions are not obeyed: alibi, states instead of keys."""
        return None if self._remembers is None else DecoderMemory()

    @torch.no_grad()
    def recall(self, embeds: Tensor, positions: Tensor, visible: Tensor | None, memory: Memory) -> Tensor:
        """See `LanguageModel.recall`."""
        if self._remembers is None or not isinstance(memory, DecoderMemory):
            raise TypeError(f"{type(memory).__name__} is no memory of this model")
        known = memory.append(positions)
        mask = None if visible is None else masks(self._remembers, visible, positions, known, embeds.dtype)
        decoder = self._decoder()
        decoded = decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            return_dict=True,
            **{cache_keyword(decoder): memory.cache},
        )
        hidden: Tensor = decoded.last_hidden_state
        return hidden

    @torch.no_grad()
    def generate(
        self,
        embeds: Tensor,
        mask: Tensor,
        options: GenerationOptions,
        on_token: Callable[[int], None] | None = None,
    ) -> list[Sequence[int]]:
        """See `LanguageModel.generate`. A stop that is one special token ends an answer like the end token.

        With stop texts, ids are handed to `on_token` once they cannot be the beginning of one, so that what it
        gets is what is returned.
        """
        ends, stops = split_stops(options, self.tokenizer)
        streams = on_token is not None and len(embeds) == 1 and options.beams == 1
        arguments: dict[str, Any] = {}
        if stops:
            arguments["stopping_criteria"] = [StopAtTexts(stops)]
        if streams and on_token is not None:
            arguments["streamer"] = TokenStreamer(on_token, ends, stops)
        training = self.network.training
        self.network.eval()
        try:
            rows = self.network.generate(
                inputs_embeds=embeds,
                attention_mask=mask.long(),
                generation_config=generation_config(options, ends, self.tokenizer.pad_id),
                **arguments,
            )
        finally:
            self.network.train(training)
        return [trim(row, ends, stops) for row in rows.tolist()]

    def packing_obstacle(self) -> str:
        """See `LanguageModel.packing_obstacle`."""
        if self._plan is None:
            attention = self.network.config.get_text_config()._attn_implementation
            cure = "" if attention in ("sdpa", "eager") else " (`attention: sdpa` may do, on GPUs by a flash kernel)"
            return f"its attention, {attention}, cannot be kept from looking across samples that share a row{cure}"
        if not self._segmented:
            return "its attention implementation would compute, and mask, all pairs of samples that share a row"
        return ""

    def checkpoint_activations(self) -> bool:
        """See `LanguageModel.checkpoint_activations`."""
        if not checkpoint_activations(self.network):
            return False
        recompute_frozen(self.network)
        return True

    def compile_blocks(self) -> bool:
        """See `LanguageModel.compile_blocks`."""
        layers = self.network.config.get_text_config().num_hidden_layers
        blocks = next((m for m in self._decoder().children() if isinstance(m, nn.ModuleList) and len(m) == layers), ())
        keep_uncompiled()
        for block in blocks:
            block.compile(dynamic=True)
        return bool(blocks)

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """See `LanguageModel.save`. The tokenizer's files go with it.

        Args:
            folder: an empty folder.
            state: weights by their names in this module (`network.…`) or in the network itself, as they are
                without adapters.

        Raises:
            ValueError: weights that are missing, or adapters that have not been merged.
        """
        given = self.network.state_dict() if state is None else _without_prefix(state)
        # Not the second name of tied weights: loading ties them again.
        wanted = [parameter.name.removeprefix("network.") for parameter in self.shape.parameters]
        if missing := [name for name in wanted if name not in given]:
            worn = any(".lora_" in name or ".base_layer." in name for name in given)
            cure = "; the language model still wears an adapter: merge it before saving" if worn else ""
            raise ValueError(f"the weights to save lack {some(missing)}{cure}")
        whole = {name: given[name] for name in wanted}
        persistent = self.network.state_dict().keys()
        whole |= {name: given.get(name, b) for name, b in self.network.named_buffers() if name in persistent}
        with quiet():
            self.network.save_pretrained(folder, state_dict=whole)
        if isinstance(getattr(self, "tokenizer", None), HfTokenizer):
            self.tokenizer.save(folder)

    def _decoder(self) -> nn.Module:
        decoder: nn.Module = self.network.get_decoder()
        return decoder

    def _decode(self, embeds: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Rows of one segment each, padded at either end."""
        return self._run(embeds, positions.masked_fill(~mask, 0), mask.long())

    def _run(self, embeds: Tensor, positions: Tensor, mask: Tensor | Mapping[str, Tensor]) -> Tensor:
        places = {"position_ids": positions} if self._takes_positions else {}
        decoded = self._decoder()(
            inputs_embeds=embeds, attention_mask=mask, use_cache=False, return_dict=True, **places
        )
        hidden: Tensor = decoded.last_hidden_state
        return hidden


def _attend_by_segments(network: Any) -> bool:
    """Give a network that attends by SDPA the attention of `segments`; whether it has that now."""
    if network.config.get_text_config()._attn_implementation == "sdpa":
        with quiet():  # of an architecture whose attention cannot be chosen it warns and leaves it
            network.set_attn_implementation(NAME)
    return bool(network.config.get_text_config()._attn_implementation == NAME)


def _shape(model: HfCausalLanguageModel, context_length: int | None) -> LanguageShape:
    """Closed form where there is one (quantised weights have other shapes), else what the modules say."""
    network = model.network
    config = network.config.get_text_config()
    closed = language_shape(config.to_dict(), context_length)
    if closed is not None:
        return closed
    length = context_length or getattr(config, "max_position_embeddings", None)
    if length is None:
        raise ValueError(
            f"the config of a {config.model_type!r} model names no length; set `model.language_model.context_length`"
        )
    embedding = network.get_input_embeddings().weight
    head = network.get_output_embeddings().weight
    heads = config.num_attention_heads
    return LanguageShape(
        width=embedding.shape[1],
        vocabulary=head.shape[0],
        context_length=length,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=_intermediate(config),
        parameters=parameter_shapes(model),
        head=next((name for name, tensor in model.named_parameters() if tensor is head), ""),
    )


def _check_ids(tokenizer: HfTokenizer, network: Any) -> None:
    """Refuse a tokenizer whose special tokens have no embeddings: they would be looked up in every batch."""
    rows = network.get_input_embeddings().weight.shape[0]
    for role in ("bos", "eos", "pad"):
        index = getattr(tokenizer, f"{role}_id")
        if index is not None and index >= rows:
            raise ValueError(
                f"the {role} token of {tokenizer.source} has id {index} and the language model has {rows} embeddings;"
                " set `model.language_model.tokenizer` to the tokenizer that the model was trained with"
            )


def _intermediate(config: Any) -> int:
    """Width of the feed-forward layers, under the names that architectures give it."""
    for name in ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"):
        if isinstance(size := getattr(config, name, None), int):
            return size
    return 4 * int(config.hidden_size)


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("network."): tensor for name, tensor in state.items()}
