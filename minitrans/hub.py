"""From a name or a path to a local folder: `bert-base-uncased`, `org/name`, or a directory that is already here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from minitrans.files import is_inside, printable

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class HubOptions(TypedDict, total=False):
    """Where to find a checkpoint, and how to get it.

    Attributes:
        revision: a branch, tag or commit of the repository.
        local_files_only: never ask the network.
        cache_dir: the folder of the cache, instead of `huggingface_hub`'s own.
        force_download: fetch the files again, whatever the cache holds.
        token: who asks; True = the one that was stored at login.
        subfolder: the folder inside the repository, or inside a directory, that holds the files.
    """

    revision: str | None
    local_files_only: bool
    cache_dir: str | Path | None
    force_download: bool
    token: str | bool | None
    subfolder: str | None


def local_folder(name_or_path: str | Path, *, patterns: Sequence[str], **where: Unpack[HubOptions]) -> Path:
    """A folder on this disk that holds the files matching `patterns`, downloading them from the Hugging Face hub if need be.

    A directory is returned as it is, or its subfolder. Anything else that looks like a hub name ("name" or "owner/name")
    goes through `huggingface_hub`, which honours HF_HUB_OFFLINE and keeps its own cache.

    Raises:
        ValueError: if it is neither a directory nor a hub name, or the hub (or its cache, when offline) has no such checkpoint.
    """
    options: dict[str, Any] = dict(where)
    below, revision = options.pop("subfolder", None) or "", options.get("revision")
    if not is_inside(below):
        raise ValueError(f"subfolder: expected a folder inside the checkpoint's, got {printable(below)}")
    path = Path(name_or_path).expanduser()
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise ValueError(f"{printable(path)}: cannot be read: {error.strerror}") from None
    if is_folder:
        return path / below
    if exists:
        raise ValueError(f"{printable(path)}: expected a folder that holds a checkpoint, found a file")
    if not isinstance(name_or_path, str) or not _HUB_NAME.fullmatch(name_or_path) or ".." in name_or_path:
        raise ValueError(f"{printable(name_or_path)}: no such folder here, and not a name on the hub (owner/name)")

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = [f"{below.rstrip('/')}/{pattern}" if below else pattern for pattern in patterns]
    try:
        return Path(snapshot_download(name_or_path, allow_patterns=wanted, **options)) / below
    except RepositoryNotFoundError:
        raise ValueError(f"{name_or_path}: no such folder here, and no such repository on the hub") from None
    except RevisionNotFoundError:
        raise ValueError(f"{name_or_path}: the repository has no revision {printable(revision)!r}") from None
    except LocalEntryNotFoundError:
        cause = "and the hub cannot be reached (offline mode, local_files_only or no network)"
        hint = f"not in the local Hugging Face cache, {cause}; give the path of a local folder, or download it once"
        raise ValueError(f"{name_or_path}: no such folder here, {hint}") from None
    except HfHubHTTPError as error:
        raise ValueError(f"{name_or_path}: the Hugging Face hub refused: {printable(error, 200)}") from None


def upload(
    folder: str | Path,
    repo_id: str,
    *,
    files: Sequence[str],
    instead_of: Sequence[str] = (),
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Uploads these files of a folder to a repository of the Hugging Face hub in one commit; both are made if they are new.

    Args:
        folder: where the files are.
        repo_id: "owner/name", or "name" of whoever asks.
        files: their names.
        instead_of: patterns of files in the repository that go unless they are among these.
        commit_message: of the commit.
        commit_description: of the commit.
        private: whether a new repository is; None = as its owner's are.
        token: who asks; True = the one that was stored at login.
        revision: the branch; None = the main one.
        create_pr: propose the commit instead of making it.

    Raises:
        ValueError: where the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=list(files), delete_patterns=list(instead_of),
            commit_message=commit_message or "Upload a model", commit_description=commit_description, revision=revision,
            create_pr=create_pr,
        )  # fmt: skip
    except HfHubHTTPError as error:
        raise ValueError(f"{printable(repo_id)}: the Hugging Face hub refused: {printable(error, 200)}") from None
