"""Connectors: token by token, on a smaller grid, and resamplers with learned queries."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

__all__ = ["api_version", "lensmith_components"]

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """The connectors of this package."""
    return [
        Component(
            kind=Kind.CONNECTOR,
            name="linear",
            known_as=dict.fromkeys(
                (
                    "linear_projection",
                    "linear_proj",
                ),
                "linear",
            ),
            spec="lensmith_plugins.connectors.specs:LinearSpec",
            implementation="lensmith_plugins.connectors.linear:LinearConnector",
            summary="one linear layer for each token (LLaVA)",
            paper="LLaVA (Liu et al. 2023, arXiv 2304.08485), section 4.1",
            example="name: linear\n",
        ),
        Component(
            kind=Kind.CONNECTOR,
            name="mlp",
            known_as={
                "mlp1x_gelu": "{name: mlp, depth: 1}",
                "mlp2x_gelu": "{name: mlp, depth: 2}",
                "mlp3x_gelu": "{name: mlp, depth: 3}",
                "mlp4x_gelu": "{name: mlp, depth: 4}",
                "mlp_gelu": "mlp",
                "mlp*_gelu": "{name: mlp, depth: N}",
                "two_layer_mlp": "{name: mlp, depth: 2}",
                "llava_mlp": "mlp",
            },
            spec="lensmith_plugins.connectors.specs:MlpSpec",
            implementation="lensmith_plugins.connectors.mlp:MlpConnector",
            summary="a multi-layer perceptron for each token (LLaVA-1.5)",
            paper="LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744)",
            example="name: mlp\ndepth: 2\n",
        ),
        Component(
            kind=Kind.CONNECTOR,
            name="identity",
            spec="lensmith_plugins.connectors.specs:IdentitySpec",
            implementation="lensmith_plugins.connectors.identity:IdentityConnector",
            summary="the encoder's features as they are, where the widths are equal",
            paper="LLaVA's code, `mm_projector_type: identity`",
            example="name: identity\n",
        ),
        Component(
            kind=Kind.CONNECTOR,
            name="qformer",
            known_as=dict.fromkeys(
                (
                    "q_former",
                    "blip2_qformer",
                    "instructblip",
                ),
                "qformer",
            ),
            spec="lensmith_plugins.connectors.qformer_spec:QFormerSpec",
            implementation="lensmith_plugins.connectors.qformer:QFormerConnector",
            summary="learned queries that look at the picture, and at the question, in a BERT (BLIP-2, InstructBLIP)",
            paper="BLIP-2 (Li et al. 2023, arXiv 2301.12597); InstructBLIP (Dai et al. 2023, arXiv 2305.06500)",
            example="name: qformer\nqueries: 32\nlayers: 12\n",
        ),
        Component(
            kind=Kind.CONNECTOR,
            name="perceiver",
            known_as=dict.fromkeys(
                (
                    "*resampler",
                    "flamingo",
                ),
                "perceiver",
            ),
            spec="lensmith_plugins.connectors.perceiver_spec:PerceiverSpec",
            implementation="lensmith_plugins.connectors.perceiver:PerceiverConnector",
            summary="learned latents that look at the picture layer by layer (Flamingo)",
            paper="Flamingo (Alayrac et al. 2022, arXiv 2204.14198), section 3.1.1 and appendix A.1.1",
            example="name: perceiver\nlatents: 64\ndepth: 6\n",
        ),
        Component(
            kind=Kind.CONNECTOR,
            name="pixel_shuffle",
            known_as=dict.fromkeys(
                (
                    "internvl*",
                    "pixelshuffle",
                    "mlp_downsample*",
                    "patch_merger",
                ),
                "pixel_shuffle",
            ),
            spec="lensmith_plugins.connectors.grid_specs:PixelShuffleSpec",
            implementation="lensmith_plugins.connectors.pixel_shuffle:PixelShuffleConnector",
            summary="neighbouring tokens side by side in one, a norm and a perceptron (InternVL)",
            paper="InternVL 1.5 (Chen et al. 2024, arXiv 2404.16821), section 3.1",
            example="name: pixel_shuffle\nfactor: 2\n",
        ),
        Component(
            kind=Kind.CONNECTOR,
            name="pool",
            known_as=dict.fromkeys(
                (
                    "*avg_pool*",
                    "*average_pool*",
                    "*avgpool*",
                    "spatial_pool",
                ),
                "pool",
            ),
            spec="lensmith_plugins.connectors.grid_specs:PoolSpec",
            implementation="lensmith_plugins.connectors.pool:PoolConnector",
            summary="averages of neighbouring tokens and a perceptron (DeCo)",
            paper="DeCo (Yao et al. 2024, arXiv 2405.20985)",
            example="name: pool\nfactor: 2\n",
        ),
    ]
