"""The Perceiver resampler against Idefics', which is Flamingo's with another activation, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import IdeficsConfig
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

from lensmith import IncompatibleParts, VisionShape
from lensmith_plugins.connectors.perceiver import PerceiverConnector
from lensmith_plugins.connectors.perceiver_spec import PerceiverSpec

ENCODER = VisionShape((28, 42), (2, 3), 24)
NAMES = {
    "0.context_layer_norm": "attention.feature_norm",
    "0.latents_layer_norm": "attention.latent_norm",
    "0.q_proj": "attention.query",
    "0.k_proj": "attention.key",
    "0.v_proj": "attention.value",
    "0.output_proj": "attention.output",
    "1.ln": "feed_forward.norm",
    "1.fc": "feed_forward.up",
    "1.c_proj": "feed_forward.down",
}


@torch.no_grad()
def test_it_is_idefics_resampler() -> None:
    config = IdeficsConfig(
        vision_config={"embed_dim": 24}, perceiver_config={"qk_layer_norms_perceiver": False, "use_resampler": True}
    )
    theirs = IdeficsPerceiverResampler(config, embed_dim=24, depth=3, n_heads=2, head_dim=5, n_latents=7)
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    spec = PerceiverSpec(latents=7, depth=3, heads=2, head_width=5, activation="relu")
    connector = PerceiverConnector.build(spec, ENCODER, 10)
    state = {"projection.weight": torch.randn(10, 24), "projection.bias": torch.randn(10)}
    for name, tensor in theirs.state_dict().items():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            module, _, kind = rest.rpartition(".")
            name = f"layers.{layer}.{NAMES[module]}.{kind}"
        state[name.replace("layer_norm", "norm")] = tensor
    connector.load_state_dict(state, strict=True)
    features = torch.randn(3, 6, 24)
    expected = F.linear(theirs(features), state["projection.weight"], state["projection.bias"])
    torch.testing.assert_close(connector(features), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_squared_relu_is_the_default() -> None:
    connector = PerceiverConnector.build(PerceiverSpec(depth=1, heads=2), ENCODER, 10)
    layer = connector.layers[0].feed_forward
    hidden = torch.randn(1, 64, 24)
    inner = F.relu(layer.up(layer.norm(hidden))) ** 2
    torch.testing.assert_close(layer(hidden), layer.down(inner))
    assert layer.up.out_features == 4 * 24


@torch.no_grad()
def test_the_order_of_the_tokens_does_not_matter() -> None:
    """Positions are in the encoder's features, or nowhere."""
    connector = PerceiverConnector.build(PerceiverSpec(latents=4, depth=2, heads=2), ENCODER, 10)
    features = torch.randn(2, 6, 24)
    torch.testing.assert_close(connector(features.flip(1)), connector(features), rtol=1e-5, atol=1e-6)


def test_flamingos_sizes() -> None:
    """NFNet-F6's features are 1536 wide; heads are then 96 wide, as its appendix says."""
    assert PerceiverSpec().width_of_a_head(VisionShape((288, 288), (9, 9), 1536)) == 96
    with pytest.raises(IncompatibleParts, match="cannot share the vision encoder's width 24 among 16 heads; set"):
        PerceiverSpec().shape(ENCODER, 10)
