"""What the manifest says of an endpoint's body or query, and of an object in bodies and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.server.manifest.field import Manifest


@dataclass(frozen=True, slots=True)
class Api:
    """An endpoint that reads fields.

    Attributes:
        name: what its fields are called by: "chat" makes "chat.temperature".
        endpoint: method and path, as in the table of endpoints.
        fields: of the body, or of the query.
        origins: addresses of the references, "{field}" standing for the field, by origin; "" is the API's own.
    """

    name: str
    endpoint: str
    fields: Manifest
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """An object inside a request, or an answer or a part of it; its fields are called by the type's name.

    Attributes:
        kind: the type that is read or written.
        fields: those of the type, and those of the reference that it lacks.
        origins: as an Api's.
    """

    kind: type
    fields: Manifest
    origins: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.kind.__name__
