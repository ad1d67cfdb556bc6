"""Fetch a model from a Hugging Face hub, each file checked against the hash that the hub states for it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from penstock.core.errors import NotFoundError, PenstockError, StoreError
from penstock.models.store.choose import choose_files
from penstock.models.store.entry import Manifest, StoredFile, check_sha256, sha256_of
from penstock.models.store.names import HUB_PREFIX, HubName
from penstock.models.store.progress import tree_size, watching
from penstock.models.store.staging import require_space, storage_errors

if TYPE_CHECKING:
    from penstock.models.store.progress import Progress


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the repository. `sha256` is known for large files (LFS), `blob_id` (git's SHA-1) for the others."""

    path: str
    size: int
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """What will be fetched, settled before a byte of it is."""

    name: str
    repo: str
    revision: str
    load: str
    files: tuple[RemoteFile, ...]
    license: str | None

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def find_on_hub(name: HubName) -> RemoteModel:
    """Ask the hub what `name` is. Raises NotFoundError, InvalidRequestError or StoreError."""
    info = _ask(name.repo, lambda api: api.model_info(name.repo, files_metadata=True))
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    choice = choose_files(name, list(files))
    card = info.card_data
    return RemoteModel(
        name=f"{HUB_PREFIX}{name.repo}" + (f":{choice.label}" if choice.label else ""),
        repo=name.repo,
        revision=info.sha,
        load=choice.load,
        files=tuple(_remote_file(files[path]) for path in choice.files),
        license=card.get("license") if card is not None else None,
    )


def fetch_from_hub(model: RemoteModel, built: Path, work: Path, progress: Progress) -> Manifest:
    """Put the model's files into `built`. `work` keeps those that came whole, for a later call to go on with.

    Raises StoreError if the network, the hub or a checksum fails.
    """
    for torn in work.rglob("*.incomplete"):  # of a killed process: the library never picks them up again
        torn.unlink()
    require_space(max(0, model.size - tree_size(work)))
    with watching(work, f"downloading {model.name}", model.size, progress):
        for file in model.files:
            _download(model, file.path, work)
    stored = []
    for file in model.files:
        path = work / file.path
        sha256 = _check(path, file, progress)
        stored.append(StoredFile(file.path, path.stat().st_size, sha256))
        place = built / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    return Manifest(
        name=model.name,
        source=f"{HUB_PREFIX}{model.repo}@{model.revision}",
        load=model.load,
        files=stored,
        license=model.license if isinstance(model.license, str) else None,
    )


def _remote_file(sibling: Any) -> RemoteFile:
    path = PurePosixPath(sibling.rfilename)
    if path.is_absolute() or ".." in path.parts or "\\" in sibling.rfilename:
        raise StoreError(f"The hub lists a file outside its repository: {sibling.rfilename!r}.", code="hostile_name")
    return RemoteFile(str(path), sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None, sibling.blob_id)


def _download(model: RemoteModel, path: str, work: Path) -> None:
    with storage_errors():
        _ask(
            model.repo,
            lambda api: api.hf_hub_download(model.repo, path, revision=model.revision, local_dir=work),
        )


def _check(path: Path, file: RemoteFile, progress: Progress) -> str:
    """The file's SHA-256, once it is known to be the file that the hub described."""
    if file.sha256 is not None:
        check_sha256(path, file.sha256, progress)
        return file.sha256
    content = path.read_bytes()
    # Git names a blob by the SHA-1 of this header and its content; that guards against damage, not against malice.
    blob_id = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if file.blob_id is not None and blob_id != file.blob_id:
        raise StoreError(
            f"{path.name} is not the file that the hub describes: its git id is {blob_id}, expected {file.blob_id}. "
            "Pull again.",
            code="checksum_mismatch",
        )
    return sha256_of(path, f"checking {path.name}", progress)


def _ask(repo: str, question: Any) -> Any:
    """Call the hub's library, and say what went wrong in our words."""
    from huggingface_hub import HfApi, errors
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # ours is drawn by the caller
    try:
        return question(HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="penstock"))
    except errors.GatedRepoError as error:
        raise StoreError(
            f"{repo} asks you to accept its terms first: do so on its page, then set HF_TOKEN to a token of yours.",
            code="gated",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFoundError(
            f"The hub has no model {repo}, or it is private: check the spelling, or set HF_TOKEN.", param="model"
        ) from error
    except errors.HfHubHTTPError as error:
        raise StoreError(f"The hub refused to serve {repo}: {_first_line(error)}", code="fetch_failed") from error
    except PenstockError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise StoreError(
            f"{repo} could not be fetched from the hub: {_first_line(error)}. Check the network, then pull again; "
            "files that came whole will not be fetched twice.",
            code="fetch_failed",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
