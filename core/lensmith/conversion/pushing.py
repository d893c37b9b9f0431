"""Upload a folder to the model hub."""

from __future__ import annotations

from pathlib import Path

from lensmith.artifacts import Manifest
from lensmith.checkpoints import is_hub_id
from lensmith.errors import ArtifactError, LensmithError
from lensmith.files import known_sha256, verify


def push(
    folder: str | Path, repository: str, *, private: bool = False, revision: str | None = None, message: str
) -> str:
    """Upload a folder in one commit.

    Args:
        folder: an artifact, whose files are verified first, or an export.
        repository: `owner/name`; made where it is not there.
        private: whether a new one is.
        revision: branch; by default the main one.
        message: of the commit.

    Returns:
        The address of the commit; its last part pins it.

    Raises:
        LensmithError: nothing to upload, a damaged artifact, no connection, no permission.
    """
    import huggingface_hub
    from huggingface_hub import constants

    place = Path(folder)
    if not is_hub_id(repository):
        raise LensmithError(f"{repository!r} is no repository of the hub; it reads owner/name")
    if not (place / "config.json").is_file() and not any(place.glob("adapter_config.json")):
        problems = verify(place, Manifest.read(place).data["files"], digest=known_sha256)
        if problems:
            raise ArtifactError(f"{place} is damaged: {'; '.join(problems)}")
    if constants.is_offline_mode():
        raise LensmithError("huggingface_hub is set to offline mode (HF_HUB_OFFLINE); unset it to push")
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=place,
            revision=revision,
            commit_message=message,
            ignore_patterns=["resume/*"],
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LensmithError(f"{place} was not pushed to {repository}: {reason}") from error
    return str(commit.commit_url)
