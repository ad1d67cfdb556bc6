"""Checks a model on disk in full: structure, every tensor's content, and the checksum where one is known."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError, ModelFileError
from penstock.models.gguf import GGUFFile
from penstock.models.load import load
from penstock.models.mapped_file import MappedFile
from penstock.models.model_files import find_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.models.spec import ModelSpec, Weights

    Progress = Callable[[int, int], None]

PIECE_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class FileReport:
    path: Path
    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found in order. `sha256_checked` says whether there was a checksum to compare with."""

    spec: ModelSpec
    files: tuple[FileReport, ...]
    tensors: int
    sha256_checked: bool


def verify(path: Path, sha256: str | None = None, on_progress: Progress | None = None) -> VerifyReport:
    """Read all of the model at `path` and return what it is.

    `sha256` is the expected checksum of a model of one file, in hexadecimal; `on_progress` is called with
    the bytes read so far and in all. Raises ModelFileError for what `load` refuses, for a checksum that
    differs, and for weights that aren't finite numbers, which no trained model has.
    """
    paths = find_files(path).paths
    if sha256 is not None and len(paths) > 1:
        raise InvalidRequestError(
            f"{path} has {len(paths)} files, and a checksum is of one. Check them one by one.", param="sha256"
        )
    files = _hash_files(paths, on_progress)
    if sha256 is not None and files[0].sha256 != sha256.lower():
        raise ModelFileError(
            f"{files[0].path} has the SHA-256 {files[0].sha256}, and {sha256.lower()} was expected. Download it again.",
            code="checksum_mismatch",
        )
    spec, weights = load(path)
    with weights:
        tensors = _check_tensors(path, weights)
    _check_metadata(paths)
    return VerifyReport(spec, files, tensors, sha256 is not None)


def _hash_files(paths: tuple[Path, ...], on_progress: Progress | None) -> tuple[FileReport, ...]:
    with ExitStack() as opened:
        files = [opened.enter_context(closing(MappedFile(path))) for path in paths]
        total = sum(file.size for file in files)
        done = 0
        reports = []
        for file in files:
            digest = hashlib.sha256()
            for start in range(0, file.size, PIECE_BYTES):
                stop = min(start + PIECE_BYTES, file.size)
                digest.update(file.view(start, stop))
                file.release_pages(start, stop)
                if on_progress is not None:
                    on_progress(done + stop, total)
            done += file.size
            reports.append(FileReport(file.path, file.size, digest.hexdigest()))
    return tuple(reports)


def _check_tensors(path: Path, weights: Weights) -> int:
    names = list(weights.names())
    for name in names:
        if not weights.are_finite(name):
            raise ModelFileError(f"{path}: the tensor {name} holds infinities or NaNs. Download the model again.")
    return len(names)


def _check_metadata(paths: tuple[Path, ...]) -> None:
    """Decode the arrays that opening a GGUF file leaves alone."""
    for path in paths:
        if path.suffix == ".gguf":
            with GGUFFile.open(path) as file:
                for key in file.metadata:
                    file.metadata[key]
