"""Vision encoders: the vision transformers of CLIP, SigLIP, DINOv2 and open_clip, any timm model, and several fused."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

__all__ = ["api_version", "lensmith_components"]

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """The vision encoders of this package."""
    return [
        Component(
            kind=Kind.VISION_ENCODER,
            name="clip",
            known_as=dict.fromkeys(
                (
                    "*clip_vit*",
                    "clip_vision*",
                    "openai*",
                ),
                "{name: clip, checkpoint: …}",
            ),
            spec="lensmith_plugins.vision_encoders.transformers_specs:ClipSpec",
            implementation="lensmith_plugins.vision_encoders.clip:ClipEncoder",
            summary="CLIP's vision transformer, patch features of one layer (LLaVA's vision tower)",
            paper="CLIP (Radford et al. 2021, arXiv 2103.00020), as LLaVA uses it (Liu et al. 2023, arXiv 2304.08485)",
            example="name: clip\ncheckpoint: openai/clip-vit-large-patch14-336\n",
        ),
        Component(
            kind=Kind.VISION_ENCODER,
            name="siglip",
            known_as=dict.fromkeys(("*siglip*",), "{name: siglip, checkpoint: …}"),
            spec="lensmith_plugins.vision_encoders.transformers_specs:SiglipSpec",
            implementation="lensmith_plugins.vision_encoders.siglip:SiglipEncoder",
            summary="SigLIP's and SigLIP 2's vision transformer, patch features of one layer",
            paper="SigLIP (Zhai et al. 2023, arXiv 2303.15343); SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786)",
            example="name: siglip\ncheckpoint: google/siglip-so400m-patch14-384\n",
        ),
        Component(
            kind=Kind.VISION_ENCODER,
            name="dinov2",
            known_as=dict.fromkeys(("*dino*",), "{name: dinov2, checkpoint: …}"),
            spec="lensmith_plugins.vision_encoders.transformers_specs:Dinov2Spec",
            implementation="lensmith_plugins.vision_encoders.dinov2:Dinov2Encoder",
            summary="DINOv2's vision transformer, with or without registers, patch features of one layer",
            paper="DINOv2 (Oquab et al. 2023, arXiv 2304.07193); registers (Darcet et al. 2023, arXiv 2309.16588)",
            example="name: dinov2\ncheckpoint: facebook/dinov2-large\nimage_size: 336\n",
        ),
        Component(
            kind=Kind.VISION_ENCODER,
            name="blip2",
            spec="lensmith_plugins.vision_encoders.blip2_spec:Blip2Spec",
            implementation="lensmith_plugins.vision_encoders.blip2:Blip2Encoder",
            summary="the vision transformer of BLIP-2 and InstructBLIP, for the qformer connector",
            paper="BLIP-2 (Li et al. 2023, arXiv 2301.12597); EVA (Fang et al. 2022, arXiv 2211.07636)",
            example="name: blip2\ncheckpoint: Salesforce/blip2-opt-2.7b\n",
        ),
        Component(
            kind=Kind.VISION_ENCODER,
            name="open_clip",
            known_as=dict.fromkeys(
                (
                    "*openclip*",
                    "*open_clip*",
                    "laion*",
                ),
                "{name: open_clip, model: …}",
            ),
            spec="lensmith_plugins.vision_encoders.open_clip_spec:OpenClipSpec",
            implementation="lensmith_plugins.vision_encoders.open_clip_tower:OpenClipEncoder",
            summary="image tower of an open_clip model, patch features of one layer",
            paper="OpenCLIP (Ilharco et al. 2021, doi 10.5281/zenodo.5143773; Cherti et al. 2023, arXiv 2212.07143)",
            example="name: open_clip\nmodel: ViT-L-14\npretrained: laion2b_s32b_b82k\n",
        ),
        Component(
            kind=Kind.VISION_ENCODER,
            name="timm",
            known_as=dict.fromkeys(
                (
                    "vit_*",
                    "*convnext*",
                    "*resnet*",
                    "*eva*",
                ),
                "{name: timm, model: …}",
            ),
            spec="lensmith_plugins.vision_encoders.timm_spec:TimmSpec",
            implementation="lensmith_plugins.vision_encoders.timm_features:TimmEncoder",
            summary="feature maps of any timm model, convolutional or transformer, one or more levels",
            paper="PyTorch Image Models (Wightman 2019, doi 10.5281/zenodo.4414861); each model has its own paper",
            example="name: timm\nmodel: convnext_base\npretrained: true\nlevels: [2, 3]\n",
        ),
        Component(
            kind=Kind.VISION_ENCODER,
            name="fused",
            spec="lensmith_plugins.vision_encoders.fused_spec:FusedSpec",
            implementation="lensmith_plugins.vision_encoders.fused:FusedEncoder",
            summary="two or more encoders side by side, features concatenated on the width",
            paper="Prismatic VLMs (Karamcheti et al. 2024, arXiv 2402.07865), section 4.2: DINOv2 and SigLIP",
            example=(
                "name: fused\nencoders:\n"
                "  - {name: dinov2, checkpoint: facebook/dinov2-large, image_size: 384}\n"
                "  - {name: siglip, checkpoint: google/siglip-so400m-patch14-384}\n"
            ),
        ),
    ]
