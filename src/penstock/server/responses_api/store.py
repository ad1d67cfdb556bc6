"""Responses that are kept: what `previous_response_id` goes on from, and what runs in the background."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import InvalidRequestError, NotFoundError
from penstock.server.responses_api.objects import ResponseObject
from penstock.server.responses_api.requests import InputItem, ResponseRequest

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection

    from penstock.server.storage import Storage

KEPT_SECONDS = 30 * 86400
KEPT_BYTES = 1 << 30  # of requests and answers together; the oldest go first
LONGEST_CHAIN = 1000  # responses that go on from each other
_SAVES_BETWEEN_EVICTIONS = 64
_UPDATE = "UPDATE responses SET bytes = bytes - LENGTH(response) + LENGTH(?1), response = ?1"

_encode = msgspec.json.encode
_decode_items = msgspec.json.Decoder(list[InputItem]).decode
_decode_response = msgspec.json.Decoder(ResponseObject).decode
_decode_request = msgspec.json.Decoder(ResponseRequest).decode


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response with what it answers: its own input alone, not that of those before it."""

    request: ResponseRequest
    input: list[InputItem]
    response: ResponseObject


class ResponseStore:
    """Responses in the server's storage.

    Args:
        storage: where they are kept.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._saves = 0

    async def add(self, stored: StoredResponse, *, unfinished: bool = False) -> None:
        """Keep a response; an unfinished one is this server's to finish."""
        response = stored.response
        parts = (_encode(stored.request), _encode(stored.input), _encode(response))
        row = (
            response.id,
            response.created_at,
            sum(map(len, parts)),
            self._storage.owner if unfinished else None,
            response.previous_response_id,
            response.model,
            *parts,
        )
        evicts = self._saves % _SAVES_BETWEEN_EVICTIONS == 0
        self._saves += 1

        def work(database: sqlite3.Connection) -> None:
            if evicts:
                _evict(database)
            database.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

        await self._storage.run(work)

    async def update(self, response: ResponseObject, *, unfinished: bool) -> bool:
        """What has become of an unfinished response of this server; False if it is no longer this server's."""
        owner = self._storage.owner
        values = (_encode(response), owner if unfinished else None, response.id, owner)

        def work(database: sqlite3.Connection) -> bool:
            return database.execute(f"{_UPDATE}, owner = ?2 WHERE id = ?3 AND owner = ?4", values).rowcount > 0

        return await self._storage.run(work)

    async def get(self, name: str) -> StoredResponse:
        """One response. Raises NotFoundError."""
        if not self._storage.exists:
            raise _unknown(name)

        def work(database: sqlite3.Connection) -> tuple[bytes, bytes, bytes] | None:
            select = "SELECT request, input, response FROM responses WHERE id = ?"
            row: tuple[bytes, bytes, bytes] | None = database.execute(select, (name,)).fetchone()
            return row

        row = await self._storage.run(work)
        if row is None:
            raise _unknown(name)
        return StoredResponse(_decode_request(row[0]), _decode_items(row[1]), _decode_response(row[2]))

    async def conversation(self, name: str) -> list[InputItem]:
        """Every item up to the end of a response: its own and those of all that it goes on from.

        Raises InvalidRequestError if one of them isn't kept or hasn't ended well.
        """

        def work(database: sqlite3.Connection) -> list[tuple[str, str | None, bytes, bytes]]:
            rows = []
            select = "SELECT id, previous, input, response FROM responses WHERE id = ?"
            left: str | None = name
            while left is not None:
                row = database.execute(select, (left,)).fetchone()
                if row is None:
                    raise _no_previous(left, "is not kept here")
                rows.append(row)
                left = row[1]
                if len(rows) > LONGEST_CHAIN:
                    raise _no_previous(name, f"goes on from more than {LONGEST_CHAIN} others")
            return rows[::-1]

        if not self._storage.exists:
            raise _no_previous(name, "is not kept here")
        items: list[InputItem] = []
        for earlier, _, asked, answered in await self._storage.run(work):
            response = _decode_response(answered)
            if response.status not in ("completed", "incomplete"):
                raise _no_previous(earlier, f"has the status {response.status!r}")
            items += _decode_items(asked)
            items += _decode_items(_encode(response.output))
        return items

    async def end(self, name: str, response: ResponseObject) -> bool:
        """Take an unfinished response from whoever works on it; False if it has ended."""
        values = (_encode(response), name)

        def work(database: sqlite3.Connection) -> bool:
            update = f"{_UPDATE}, owner = NULL WHERE id = ?2 AND owner IS NOT NULL"
            return database.execute(update, values).rowcount > 0

        return await self._storage.run(work)

    async def delete(self, name: str) -> None:
        """Forget a response. Raises NotFoundError."""

        def work(database: sqlite3.Connection) -> bool:
            return database.execute("DELETE FROM responses WHERE id = ?", (name,)).rowcount > 0

        if not self._storage.exists or not await self._storage.run(work):
            raise _unknown(name)

    async def take_up(self, models: Collection[str]) -> list[StoredResponse]:
        """Unfinished responses of these models whose server is gone; they are this server's from here on."""
        owner, is_left = self._storage.owner, self._storage.is_left

        def work(database: sqlite3.Connection) -> list[tuple[bytes, bytes, bytes]]:
            select = "SELECT id, owner, model, request, input, response FROM responses WHERE owner IS NOT NULL"
            rows = [row for row in database.execute(select) if row[2] in models and is_left(row[1])]
            for row in rows:
                database.execute("UPDATE responses SET owner = ? WHERE id = ?", (owner, row[0]))
            return [row[3:] for row in rows]

        return [
            StoredResponse(_decode_request(asked), _decode_items(items), _decode_response(answered))
            for asked, items, answered in await self._storage.run(work)
        ]


def _evict(database: sqlite3.Connection) -> None:
    finished = "DELETE FROM responses WHERE owner IS NULL AND "
    database.execute(f"{finished} created_at < ?", (int(time.time()) - KEPT_SECONDS,))
    kept: int | None = database.execute("SELECT SUM(bytes) FROM responses").fetchone()[0]
    too_many = (kept or 0) - KEPT_BYTES
    while too_many > 0:
        oldest = database.execute(
            "SELECT id, bytes FROM responses WHERE owner IS NULL ORDER BY created_at LIMIT 256"
        ).fetchall()
        if not oldest:
            return
        for name, size in oldest:
            database.execute("DELETE FROM responses WHERE id = ?", (name,))
            too_many -= size
            if too_many <= 0:
                break


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(
        f"There is no response {name[:128]!r}: it was never stored, was deleted, or is older than "
        f"{KEPT_SECONDS // 86400} days.",
        param="response_id",
        code="response_not_found",
    )


def _no_previous(name: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Nothing can go on from the response {name[:128]!r}: it {why}.",
        param="previous_response_id",
        code="previous_response_not_found",
    )
