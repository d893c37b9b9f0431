"""Prefix tuning: learnt keys and values in front of every layer's own, through input embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lensmith_plugins.compat.transformers import cache_keyword, given_cache, require_held, with_cache
from lensmith_plugins.language_models.segments import is_borders


class Prefix(nn.Module):
    """Keys and values of P positions (arXiv 2101.00190, without the reparametrisation).

    The parameter is peft's `prompt_embeddings`, (P, layers × 2 × key width). Positions of the text begin at P, as in
    peft.

    Args:
        tokens: P.
        network: the transformers model whose decoder reads it.
        width: of one key position, all heads together.
    """

    def __init__(self, tokens: int, network: Any, width: int, layers: int) -> None:
        super().__init__()
        like = network.get_input_embeddings().weight
        self.layers, self.width = layers, width
        config = network.config.get_text_config()
        self.head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # Small, so that the first step begins near the model as it was.
        weight = torch.randn(tokens, layers * 2 * width, device=like.device, dtype=torch.float32) * 0.02
        self.weight = nn.Parameter(weight.to(like.dtype))
        decoder = network.get_decoder()
        cache_keyword(decoder)  # refused here rather than in the first batch
        self._expected: tuple[Any, int] | None = None
        self._hooks = [
            decoder.register_forward_pre_hook(self._before, with_kwargs=True),
            decoder.register_forward_hook(self._after),
        ]
        self._config = config
        self._probe(decoder, like)

    def detach(self) -> None:
        """Take it out of the decoder."""
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _probe(self, decoder: nn.Module, like: Tensor) -> None:
        """One position without a mask, which a decoder passes even where it ignores the cache: `_after` looks."""
        if like.device.type != "meta":
            training = decoder.training
            decoder.eval()
            decoder(inputs_embeds=like.new_zeros(1, 1, self._config.hidden_size), use_cache=True)
            decoder.train(training)

    def _before(self, decoder: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        tokens = len(self.weight)
        embeds = keywords["inputs_embeds"] if keywords.get("inputs_embeds") is not None else keywords["input_ids"]
        cache = given_cache(keywords)
        if cache is None:
            cache = DynamicCache(config=self._config)
        if cache.get_seq_length() == 0:
            for number, (keys, values) in enumerate(self._pairs(embeds.shape[0])):
                cache.update(keys, values, number)
        self._expected = cache, cache.get_seq_length() + embeds.shape[1]
        changed = with_cache(decoder, keywords, cache)
        if keywords.get("attention_mask") is not None:
            changed["attention_mask"] = _wider(keywords["attention_mask"], tokens)
        if keywords.get("position_ids") is not None:
            changed["position_ids"] = keywords["position_ids"] + tokens
        return arguments, changed

    def _after(self, decoder: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if self._expected is not None:
            cache, length = self._expected
            self._expected = None
            require_held(cache, self.layers, length, "prefix_tuning would answer without its prefix")

    def _pairs(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (rows, heads, P, head width) of each layer."""
        split = self.weight.view(len(self.weight), self.layers * 2, self.width // self.head_width, self.head_width)
        both = split.permute(1, 2, 0, 3)[:, None].expand(-1, rows, -1, -1, -1)
        return [(both[2 * n], both[2 * n + 1]) for n in range(self.layers)]


def _wider(mask: Any, tokens: int) -> Any:
    """A mask that lets every position see the prefix: (B, T), (B, 1, T, T), or several of these by kind."""
    if isinstance(mask, dict):
        return {kind: _wider(one, tokens) for kind, one in mask.items()}
    if is_borders(mask):
        return mask  # whose attention opens to all what stands before the row
    if mask.ndim == 2:
        return torch.cat([mask.new_ones(len(mask), tokens), mask], dim=1)
    open_to_all = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
    return torch.cat([open_to_all(*mask.shape[:3], tokens), mask], dim=3)
