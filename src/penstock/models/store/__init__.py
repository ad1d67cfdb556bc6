"""Models by name: the store in the user's cache directory, and where to get what isn't in it.

>>> from penstock.models.store import resolve
>>> resolve("smollm2")  # doctest: +SKIP
PosixPath('/home/ada/.cache/penstock/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf')
"""

from __future__ import annotations

from penstock.models.store.catalog import CATALOG, DEFAULT_MODEL, PackagedModel
from penstock.models.store.entry import Manifest, StoredFile, StoredModel
from penstock.models.store.progress import Progress
from penstock.models.store.store import list_models, pull, remove, resolve, show

__all__ = [
    "CATALOG", "DEFAULT_MODEL", "Manifest", "PackagedModel", "Progress", "StoredFile", "StoredModel",
    "list_models", "pull", "remove", "resolve", "show",
]  # fmt: skip
