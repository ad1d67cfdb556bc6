"""What a model is, for someone who asks: where it lies, where it came from, what its files say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.models.encoder_files import is_encoder
from penstock.models.encoder_spec import load_encoder_spec
from penstock.models.spec import ModelSpec
from penstock.models.store.names import parse_name
from penstock.models.store.store import resolve, show

if TYPE_CHECKING:
    from penstock.models.encoder_spec import EncoderSpec
    from penstock.models.store.entry import StoredModel


@dataclass(frozen=True, slots=True)
class Description:
    """`stored` is None for a local path; `spec` is None for a damaged model, whose `problem` says why."""

    path: Path
    stored: StoredModel | None
    spec: ModelSpec | EncoderSpec | None

    def as_dict(self) -> dict[str, Any]:
        facts = self.stored.as_dict() if self.stored else {"name": str(self.path), "path": str(self.path)}
        if self.spec is not None:
            facts |= {"spec": msgspec.to_builtins(self.spec)}
        if isinstance(self.spec, ModelSpec):
            facts |= {"parameters": self.spec.parameters}
        return facts


def describe(name: str) -> Description:
    """Look at a stored model or a local path; reads headers only, never the network.

    Raises NotFoundError if it isn't there, ModelFileError if its files can't be understood.
    """
    from penstock.models.load import load

    stored = None if isinstance(parse_name(name), Path) else show(name)
    if stored is not None and stored.problem is not None:
        return Description(stored.directory, stored, None)
    path = resolve(name, offline=True) if stored is None else stored.path
    if is_encoder(path):
        return Description(path, stored, load_encoder_spec(path))
    spec, weights = load(path)
    weights.close()
    return Description(path, stored, spec)
