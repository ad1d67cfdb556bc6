"""Is a model what it should be? Checksums where they are known, structure always."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelFileError
from penstock.models.store.entry import sha256_of
from penstock.models.store.names import parse_name
from penstock.models.store.progress import silent
from penstock.models.store.store import resolve, show

if TYPE_CHECKING:
    from penstock.models.store.entry import StoredModel
    from penstock.models.store.progress import Progress


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked, and what was found wrong, in whole sentences."""

    name: str
    path: Path
    hashed_files: int  # whose SHA-256 is known and was compared
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "path": str(self.path), "hashed_files": self.hashed_files,
            "ok": self.ok, "problems": list(self.problems),
        }  # fmt: skip


def verify(name: str, progress: Progress | None = None) -> Verification:
    """Check a stored model (every file's SHA-256, then its structure) or a local path (its structure).

    Never uses the network. Raises NotFoundError if there is no such model.
    """
    told = progress or silent
    if isinstance(parse_name(name), Path):
        path = resolve(name, offline=True)
        problems, _ = _read(path, told)
        return Verification(name, path, 0, problems)
    return _verify_stored(show(name), told)


def _verify_stored(model: StoredModel, progress: Progress) -> Verification:
    if model.manifest is None or model.problem:
        return Verification(model.name, model.directory, 0, (f"{model.problem}.",))
    problems, hashes = _read(model.path, progress)
    for file in model.manifest.files:
        path = model.directory / file.path
        found = hashes.get(path.resolve()) or sha256_of(path, f"reading {path.name}", progress)
        if found != file.sha256:
            problems += (
                f"{file.path} has the SHA-256 {found} instead of {file.sha256}: it was changed or damaged. "
                f"Pull it again: penstock models pull --force {model.name}",
            )
    return Verification(model.name, model.path, len(model.manifest.files), problems)


def _read(path: Path, progress: Progress) -> tuple[tuple[str, ...], dict[Path, str]]:
    """What is wrong with the structure, and the SHA-256 of each file that was read for it."""
    from penstock.models.encoder_files import is_encoder
    from penstock.models.encoder_spec import load_encoder_spec
    from penstock.models.verify import verify as read_whole

    try:
        if is_encoder(path):
            load_encoder_spec(path)
            return (), {}
        report = read_whole(path, on_progress=lambda done, total: progress(f"reading {path.name}", done, total))
    except ModelFileError as error:
        return (error.message,), {}
    return (), {file.path.resolve(): file.sha256 for file in report.files}
