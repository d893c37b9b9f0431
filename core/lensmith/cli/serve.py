"""`lensmith serve`: a model behind OpenAI's chat interface."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lensmith.serving.limits import MIB, Limits


def serve(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder that a stage wrote, or a checkpoint.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Where a base has moved: language_model.checkpoint=PATH"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; the default is reached from this machine alone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one and says which.")] = 8000,
    name: Annotated[str, typer.Option(help="What clients call the model; by default the folder's name.")] = "",
    api_key: Annotated[
        str,
        typer.Option(envvar="LENSMITH_API_KEY", show_envvar=True, help="Key that clients must give; by default none."),
    ] = "",
    allow_remote_images: Annotated[
        bool, typer.Option("--allow-remote-images", help="Fetch pictures from public addresses that requests name.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers that grow at the same time.")] = 8,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, and its length where a request names none.")
    ] = Limits.tokens,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests at a time; more are turned away.")] = Limits.waiting,
    max_waiting_of_one: Annotated[
        int, typer.Option(min=0, help="Of those, requests of one address; 0 is three quarters.")
    ] = Limits.of_one,
    max_body: Annotated[float, typer.Option(min=0.001, help="MiB of a request.")] = Limits.body / MIB,
    max_picture: Annotated[float, typer.Option(min=0.001, help="MiB of a picture's file.")] = Limits.picture / MIB,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of all pictures of a request together.")] = Limits.pixels,
    max_pictures: Annotated[int, typer.Option(min=0, help="Pictures of a request.")] = Limits.pictures,
) -> None:
    """Answer OpenAI clients: /v1/chat/completions with pictures and streaming, and /v1/models."""
    from lensmith.serving.server import is_loopback
    from lensmith.serving.server import serve as run

    if not is_loopback(host) and not api_key:
        print(f"warning: anybody who reaches {host} can use the model; give --api-key", file=sys.stderr)

    def ready(called: str, address: str) -> None:
        print(f"{called} at {address}", flush=True)

    run(
        artifact,
        host=host,
        port=port,
        name=name,
        key=api_key,
        limits=Limits(
            body=int(max_body * MIB),
            picture=int(max_picture * MIB),
            pixels=max_pixels,
            pictures=max_pictures,
            tokens=max_tokens,
            waiting=max_waiting,
            of_one=max_waiting_of_one,
            remote=allow_remote_images,
        ),
        batch_size=batch_size,
        overrides=overrides or [],
        ready=ready,
    )
