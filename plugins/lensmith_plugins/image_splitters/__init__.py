"""Image splitters: `square` and `pad` make one view of a picture, `anyres` and `hd` cut it into tiles."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl

__all__ = ["api_version", "lensmith_components"]

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """The image splitters of this package."""
    return [
        Component(
            kind=Kind.IMAGE_SPLITTER,
            name="square",
            known_as=dict.fromkeys(
                (
                    "resize",
                    "center_crop",
                    "crop",
                ),
                "square",
            ),
            spec="lensmith_plugins.image_splitters.specs:SquareSpec",
            implementation="lensmith_plugins.image_splitters.single_view:SquareSplitter",
            summary="one view, the picture's centre square",
            paper="LLaVA (Liu et al. 2023, arXiv 2304.08485), with CLIP's crop (arXiv 2103.00020)",
            example="name: square\n",
        ),
        Component(
            kind=Kind.IMAGE_SPLITTER,
            name="pad",
            known_as=dict.fromkeys(
                (
                    "expand2square",
                    "padding",
                ),
                "pad",
            ),
            spec="lensmith_plugins.image_splitters.specs:PadSpec",
            implementation="lensmith_plugins.image_splitters.single_view:PadSplitter",
            summary="one view, the whole picture padded to a square (LLaVA-1.5)",
            paper="LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744)",
            example="name: pad\ncolor: [122, 116, 104]\n",
        ),
        Component(
            kind=Kind.IMAGE_SPLITTER,
            name="anyres",
            known_as=dict.fromkeys(
                (
                    "anyres_max*",
                    "any_res*",
                    "llava_next",
                    "dynamic*",
                ),
                "anyres",
            ),
            spec="lensmith_plugins.image_splitters.specs:AnyresSpec",
            implementation="lensmith_plugins.image_splitters.tiled:AnyresSplitter",
            summary="the whole picture and tiles of it at its own aspect ratio (LLaVA-1.6)",
            paper='LLaVA-1.6, "LLaVA-NeXT" (Liu et al. 2024, blog of January 30), and its code',
            example="name: anyres\ngrids: [[336, 672], [672, 336], [672, 672]]  # [width, height] in pixels\n"
            "merge: spatial_unpad\n",
        ),
        Component(
            kind=Kind.IMAGE_SPLITTER,
            name="hd",
            spec="lensmith_plugins.image_splitters.specs:HdSpec",
            implementation="lensmith_plugins.image_splitters.tiled:HdSplitter",
            summary="the whole picture and up to six tiles of it, without their padding (LLaVA-1.5-HD)",
            paper="LLaVA-1.5-HD (Liu et al. 2023, arXiv 2310.03744), section 3.4",
            example="name: hd\nmax_tiles: 6\n",
        ),
    ]
