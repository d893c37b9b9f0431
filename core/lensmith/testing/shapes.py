"""Checks `shape` and `tokens`: what a spec declares before a weight exists is what the module then does."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from lensmith.interfaces.module_shapes import parameter_shapes
from lensmith.interfaces.shapes import Parameters, TileLayout
from lensmith.testing.findings import expect, some
from lensmith.testing.kit import Kit
from lensmith.testing.subjects import (
    ConnectorSubject,
    EncoderSubject,
    LanguageSubject,
    ModuleSubject,
    SplitterSubject,
    promised,
)

SIZES = ((1, 1), (3, 200), (33, 57), (225, 223), (640, 361))
"""(width, height) of the pictures that an encoder prepares."""
_BACKGROUND = (120, 100, 80)
_ROUNDING = 1e-5


def shape(subject: ModuleSubject, kit: Kit) -> None:
    """Every tensor by name and size, the record that the module carries, the widths that come out."""
    for case in subject.cases():
        with promised("The spec's shape is known from config files, and the part builds."):
            declared, module = subject.declared(case), subject.build(case)
        tensors(subject.parameters(case), module, "spec")
        if declared is not None:
            carried: Any = replace(module.shape, parameters=declared.parameters)  # type: ignore[type-var]
            expect(
                carried == declared and module.shape.parameters in ((), declared.parameters),  # type: ignore[union-attr]
                "The `shape` of what is built is the shape that the spec declares.",
                f"The spec declares {_brief(declared)}, the module carries {_brief(carried)}.",
            )
        _width(subject, case, module)
    if isinstance(subject, EncoderSubject):
        _pixels(subject)


def tensors(declared: Parameters, module: torch.nn.Module, who: str) -> None:
    """Compare declared tensors with a module's own."""
    ours = {p.name: p for p in declared}
    theirs = {p.name: p for p in parameter_shapes(module)}
    promise = f"The {who} declares every tensor that is built, by name and dimensions, and no other."
    if missing := theirs.keys() - ours.keys():
        expect(False, promise, f"It does not declare {some(missing)}.")
    if unbuilt := ours.keys() - theirs.keys():
        expect(False, promise, f"It declares {some(unbuilt)}, which no module has.")
    for name, parameter in ours.items():
        expect(
            parameter.shape == theirs[name].shape,
            promise,
            f"It declares {name} as {parameter.shape}, and it is {theirs[name].shape}.",
        )
        expect(
            parameter.linear == theirs[name].linear,
            "A declared tensor says whether it is the weight of an `nn.Linear`, which adapters wrap.",
            f"{name} is declared with linear={parameter.linear}, and the module says {theirs[name].linear}.",
        )


def _width(subject: ModuleSubject, case: Any, module: torch.nn.Module) -> None:
    samples = subject.samples(case, 3)
    with torch.no_grad(), promised("The part runs on inputs of the sizes that its interface names."):
        outputs = subject.run(module, samples)
    for output in outputs:
        if isinstance(subject, LanguageSubject):
            wanted, named = subject.declared(case).vocabulary, "vocabulary of the head"
        elif isinstance(subject, EncoderSubject):
            wanted, named = subject.declared(case).width, "width W of the features"
        elif isinstance(subject, ConnectorSubject):
            wanted, named = case[1], "width D of the language model"
        else:
            wanted, named = case[1].width, "width D of the language model"
        expect(
            output.dim() == 2 and output.shape[-1] == wanted,
            f"The output's last dimension is the {named}.",
            f"One output is {tuple(output.shape)}, where the last must be {wanted}.",
        )
    if isinstance(subject, LanguageSubject):
        hidden = module.embed(samples[0])  # type: ignore[operator]
        expect(
            tuple(hidden.shape) == (len(samples[0]), subject.declared(case).width),
            "embed(ids) gives one vector of width D an id.",
            f"{len(samples[0])} ids became {tuple(hidden.shape)}, D is {subject.declared(case).width}.",
        )
        _projection(module, hidden)


def _projection(module: Any, hidden: torch.Tensor) -> None:
    layer = module.projection()
    if layer is None:
        return
    with torch.no_grad():
        off = float((layer(hidden) - module.head(hidden)).abs().max())
    expect(
        off < _ROUNDING,
        "`projection` is the layer that `head` is, and nothing else happens to the logits; else it is None.",
        f"Its logits differ by up to {off:.2g}.",
    )


def _pixels(subject: EncoderSubject) -> None:
    """Pictures of random sizes become the encoder's pixels, in worker processes too."""
    wanted = subject.declared(None)
    with promised("The preprocessing needs no weights and can be sent to data workers (pickled)."):
        preprocessing = pickle.loads(pickle.dumps(subject.implementation.preprocessing(subject.spec)))
    background = preprocessing.background
    expect(
        isinstance(background, tuple) and len(background) == 3 and all(0 <= channel <= 255 for channel in background),
        "The preprocessing's background is red, green and blue, 0..255.",
        f"It is {background!r}.",
    )
    for size in SIZES:
        pixels = preprocessing(Image.new("RGB", size, _BACKGROUND))
        expect(
            tuple(pixels.shape) == (wanted.channels, *wanted.image_size) and pixels.dtype == torch.float32,
            "A picture of any size becomes float32 pixels (channels, H, W) of the declared size.",
            f"One of {size[0]} x {size[1]} became {pixels.dtype} {tuple(pixels.shape)}; declared are"
            f" {(wanted.channels, *wanted.image_size)}.",
        )


def encoder_tokens(subject: EncoderSubject, kit: Kit) -> None:
    """N for V views."""
    module, wanted = subject.build(None), subject.declared(None).tokens
    for views in (1, 3):
        with torch.no_grad():
            features = module(torch.stack(subject.samples(None, views)))
        expect(
            features.dim() == 3 and features.shape[:2] == (views, wanted),
            "forward gives (V, N, W), N the declared grid's rows · columns and the extra tokens.",
            f"{views} views gave {tuple(features.shape)}; declared are {wanted} tokens a view.",
        )


def connector_tokens(subject: ConnectorSubject, kit: Kit) -> None:
    """M, in the spec, in `tokens_out` and in what comes out, for every encoder that fits."""
    for case in subject.cases():
        module, shape = subject.build(case), subject.declared(case)
        inside = case[0].tokens
        with torch.no_grad():
            outside = len(subject.run(module, subject.samples(case, 2))[0])
        expect(
            outside == shape.tokens,
            "The declared number of tokens M is what forward gives.",
            f"{inside} tokens in gave {outside}; the spec declares {shape.tokens}.",
        )
        said = module.tokens_out(inside)  # type: ignore[operator]
        expect(
            said == outside,
            "tokens_out(N) is what forward gives of N tokens.",
            f"tokens_out({inside}) is {said}; forward gave {outside}.",
        )
        if shape.grid is not None:
            expect(
                shape.grid[0] * shape.grid[1] == outside,
                "The declared grid holds all tokens out, rows · columns; it is None where they lie on none.",
                f"The grid is {shape.grid[0]} x {shape.grid[1]}; forward gave {outside} tokens.",
            )


def splitter_tokens(subject: SplitterSubject, kit: Kit) -> None:
    """Views and positions of random picture sizes, in the layout, in `split` and in `merge`."""
    for case in subject.cases():
        module, connector = subject.build(case), case[1]
        largest = subject.spec.largest(*case).tokens
        for layout in subject.layouts(case, 6):
            size = f"A picture of {layout.image_size[0]} x {layout.image_size[1]} (height x width)"
            _views(subject, layout, size)
            features = torch.randn(layout.views, connector.tokens, connector.width)
            with torch.no_grad():
                merged = module.merge(features, layout)  # type: ignore[operator]
            expect(
                merged.shape[0] == layout.tokens,
                "merge gives as many tokens as the layout says.",
                f"{size} was laid out for {layout.tokens} and merge gave {merged.shape[0]}.",
            )
            expect(
                layout.tokens <= largest,
                "No picture takes more positions than `largest` says, by which `lensmith check` judges.",
                f"{size} takes {layout.tokens}, `largest` says {largest}.",
            )


def _views(subject: SplitterSubject, layout: TileLayout, size: str) -> None:
    picture = Image.new("RGB", (layout.image_size[1], layout.image_size[0]), _BACKGROUND)
    views = subject.implementation.split(subject.spec, picture, layout, (0, 0, 0))
    expect(
        len(views) == layout.views and all(view.mode == "RGB" for view in views),
        "split gives as many RGB views as the layout says.",
        f"{size} was laid out for {layout.views} views and split gave {len(views)}.",
    )


def _brief(shape: Any) -> str:
    return str(replace(shape, parameters=())).replace(", parameters=()", "")
