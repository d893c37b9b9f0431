"""`lensmith generate`: ask a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def generate(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder that a stage wrote, or a checkpoint.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The question; <image> marks where a picture goes.")],
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Picture file; repeat for several, leave out for none.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Where a base has moved: language_model.checkpoint=PATH"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy; above, sampling.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus mass when sampling.")] = 1.0,
    beams: Annotated[int, typer.Option(min=1, help="Beam search width (not streamed).")] = 1,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
) -> None:
    """Answer a question about pictures; the answer streams to standard output."""
    from lensmith.data.pictures import picture_size
    from lensmith.data.rows import user_turn

    user_turn(prompt, len(image or ()))  # misplaced <image> and unreadable pictures fail before weights load
    for path in image or ():
        picture_size(path)

    import torch

    from lensmith.interfaces.language_model import GenerationOptions
    from lensmith.loading import load

    model = load(artifact, overrides=overrides or ())
    torch.manual_seed(seed)
    options = GenerationOptions(max_new_tokens, temperature, top_p, beams)
    if beams > 1:
        print(model.generate(image, prompt, options))
        return
    for piece in model.stream(image, prompt, options):
        print(piece, end="", flush=True)
    print()
