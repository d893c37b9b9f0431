"""`lensmith generate`: ask a trained model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def generate(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder that a stage wrote, or a checkpoint.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The question; <image> marks where a picture goes.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Picture file; repeat for several, leave out for none.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Where a base has moved: language_model.checkpoint=PATH"),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help='Many questions, {"id", "image", "prompt"} a line; or LLaVA\'s "question_id" and "text".',
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Gets a line for each of them; where it is there, the rest is answered."),
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option("--image-root", help="Folder of their pictures; by default that of --input.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers of --input that grow at the same time.")] = 8,
    bad_rows: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="What a question of --input that cannot be asked does: end, or leave its error there."),
    ] = "stop",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy; above, sampling.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus mass when sampling.")] = 1.0,
    beams: Annotated[int, typer.Option(min=1, help="Beam search width (not streamed).")] = 1,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
) -> None:
    """Answer a question about pictures, streamed to standard output; or a file of questions."""
    settings: dict[str, float] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "beams": beams,
    }
    if questions is not None or output is not None:
        if questions is None or output is None or prompt is not None or image:
            raise typer.BadParameter("--input and --output go together, and without --prompt and --image")
        _file(artifact, overrides or [], questions, output, image_root, batch_size, bad_rows, settings, seed)
        return
    if prompt is None:
        raise typer.BadParameter("Missing option '--prompt' / '-p', or '--input' with '--output'.")
    _one(artifact, overrides or [], prompt, image or [], settings, seed)


def _one(
    artifact: Path, overrides: list[str], prompt: str, images: list[Path], settings: dict[str, float], seed: int
) -> None:
    from lensmith.data.pictures import picture_size
    from lensmith.data.rows import user_turn

    user_turn(prompt, len(images))  # misplaced <image> and unreadable pictures fail before weights load
    for path in images:
        picture_size(path)

    import torch

    from lensmith.interfaces.language_model import GenerationOptions
    from lensmith.loading import load

    model = load(artifact, overrides=overrides)
    torch.manual_seed(seed)
    options = GenerationOptions(**settings)  # type: ignore[arg-type]
    if options.beams > 1:
        print(model.generate(images, prompt, options))
        return
    for piece in model.stream(images, prompt, options):
        print(piece, end="", flush=True)
    print()


def _file(
    artifact: Path,
    overrides: list[str],
    questions: Path,
    output: Path,
    image_root: Path | None,
    batch_size: int,
    bad_rows: Literal["stop", "skip"],
    settings: dict[str, float],
    seed: int,
) -> None:
    from lensmith.artifacts import MANIFEST, Manifest
    from lensmith.files import sha256
    from lensmith.inference.answer_file import AnswerFile
    from lensmith.inference.answering_files import answer_file, check_rows
    from lensmith.inference.questions import read_questions

    Manifest.read(artifact)
    root = (image_root or questions.parent).resolve()
    rows = list(read_questions(questions, root))
    check_rows(questions, rows, bad_rows)
    made_with = {
        "artifact": sha256(artifact / MANIFEST),
        "overrides": overrides,
        "image_root": str(root),
        **settings,
        "seed": seed if settings["temperature"] > 0 else None,
    }
    with AnswerFile(output, made_with) as file:
        if file.done(rows) < len(rows):
            from lensmith.interfaces.language_model import GenerationOptions
            from lensmith.loading import load

            model = load(artifact, overrides=overrides)
            answer_file(
                model,
                questions,
                rows,
                file,
                GenerationOptions(**settings),  # type: ignore[arg-type]
                name=artifact.resolve().name,
                batch_size=batch_size,
                seed=seed,
                bad_rows=bad_rows,
            )
        skipped = file.skipped()
    told = f', {skipped:,} of them could not be asked: see their "error"' if skipped else ""
    print(f"{len(rows):,} questions in {output}{told}", file=sys.stderr)
