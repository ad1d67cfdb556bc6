"""One request before the run, to learn whether the endpoint is what it says."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from penstock.core.errors import AuthenticationError, InvalidRequestError, NotFoundError, OverloadedError, PenstockError
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.planned import Planned

if TYPE_CHECKING:
    from penstock.lab.bench.endpoint import Endpoint
    from penstock.lab.bench.observations import Observations

_TOKENS = 8
_PROMPT = "Count from one to ten."
_NO_SUCH_PATH = (404, 405, 501)
_REFUSED = (400, 422)
_SHOWN = 200  # characters of what a server said


@dataclass(frozen=True, slots=True)
class Probed:
    """An endpoint that answered, and what a reader of its figures must know of it."""

    endpoint: Endpoint
    notes: tuple[str, ...]


def probe(endpoint: Endpoint, *, any_api: bool = False, any_end: bool = False, timeout: float = 60.0) -> Probed:
    """Have it answer a short prompt.

    Args:
        any_api: where it has no completions, chat will do.
        any_end: where it refuses the field `ignore_eos`, answers may end where the model ends them.
        timeout: in seconds; the first request of a server may have to wait for its model.

    Raises:
        AuthenticationError: it wants a key, or another.
        NotFoundError: nothing answers, or not under this API's path.
        OverloadedError: it turns requests away.
        InvalidRequestError: what answers isn't this API, or refuses the request.
        KeyboardInterrupt: Ctrl-C.
    """
    notes: list[str] = []
    seen = _ask(endpoint, timeout)
    if any_api and _status(seen) in _NO_SUCH_PATH and endpoint.api == "completions":
        endpoint = replace(endpoint, api="chat")
        seen = _ask(endpoint, timeout)
    if any_end and endpoint.ignore_eos and _status(seen) in _REFUSED:
        shorter = replace(endpoint, ignore_eos=False)
        again = _ask(shorter, timeout)
        if again.ending[0] == Ending.WHOLE:
            endpoint, seen = shorter, again
            notes.append(
                "The server refuses ignore_eos: answers end where the model ends them, not at the length asked."
            )
    if seen.ending[0] != Ending.WHOLE:
        raise _explained(endpoint, seen, timeout)
    if seen.completion_tokens[0] < 0:
        notes.append(
            "The server tells no usage: each piece of text counts as one output token, and prompts as they were meant."
        )
    elif seen.completion_tokens[0] > 1 and seen.piece_counts[0] == 1:
        notes.append("The answer came in one piece: this server doesn't stream, and its TTFT is its end-to-end time.")
    return Probed(endpoint, tuple(notes))


def _ask(endpoint: Endpoint, timeout: float) -> Observations:
    body = {name: value for name, value in endpoint.body.items() if name != "min_tokens"}  # may be over what is asked
    seen = offer(replace(endpoint, body=body), [Planned(_PROMPT, _TOKENS)], Manner(slots=1, timeout=timeout))
    if seen.meta["cut"]:  # by Ctrl-C, even if the answer was whole by then
        raise KeyboardInterrupt
    return seen


def _status(seen: Observations) -> int:
    return int(seen.status[0]) if seen.ending[0] == Ending.STATUS else 0


def _explained(endpoint: Endpoint, seen: Observations, timeout: float) -> PenstockError:
    ending, detail = Ending(seen.ending[0]), _shortened(next(iter(seen.details.values()), ""))
    url = endpoint.url
    if ending == Ending.STATUS:
        return _of_status(endpoint, int(seen.status[0]), detail)
    if ending == Ending.CONNECT:
        return NotFoundError(f"Nothing answers at {endpoint.base}: {detail}. Is the server up?", param="url")
    sentence = {
        Ending.TLS: f"{url} offers no secure connection that can be trusted: {detail}.",
        Ending.TIMEOUT: f"{url} took a short prompt and gave no whole answer within {timeout:g} s.",
        Ending.BROKEN: f"{url} broke the connection: {detail}. Is it an HTTP server?",
        Ending.TRUNCATED: f"{url} broke off in the middle of an answer: {detail}.",
        Ending.MALFORMED: f"{url} doesn't answer as the {endpoint.api} API does: {detail}. {_hint(detail)}",
        Ending.IN_STREAM: f"{url} failed in the middle of an answer: {detail}",
        Ending.EMPTY: f"{url} answered a short prompt with no text at all.",
    }[ending]
    return InvalidRequestError(sentence, param="url", code=ending.name.lower())


def _hint(detail: str) -> str:
    """What to look at, by what came instead of an event."""
    came = detail.rpartition("): ")[2].lstrip().lower()
    if came.startswith(("<!doctype", "<html", "<?xml")):
        return "That is a page, so no API. Check the URL."
    if came.startswith(("data:", "event:", ": ")):
        return "Those are events, but their content type isn't text/event-stream: a proxy may have changed it."
    return "Check the URL and --api."


def _of_status(endpoint: Endpoint, status: int, detail: str) -> PenstockError:
    said = f"status {status}: {detail}" if detail else f"status {status}"
    if status in (401, 403):
        return AuthenticationError(
            f"{endpoint.base} refuses the key ({said}). Pass one with --api-key or OPENAI_API_KEY.", param="api_key"
        )
    if status in _NO_SUCH_PATH:
        return NotFoundError(f"{endpoint.url} gave {said}. The server may speak another API: see --api.", param="api")
    if status in (429, 503):
        return OverloadedError(f"{endpoint.url} takes no requests now ({said}).", code="unavailable")
    if status >= 500:
        return InvalidRequestError(f"{endpoint.url} fails at a plain request ({said}).", param="url", code="failed")
    return InvalidRequestError(f"{endpoint.url} refuses a plain request ({said}).", param="url", code="refused")


def _shortened(detail: str) -> str:
    """The message of an error in OpenAI's form, or the beginning of whatever was said, on one line."""
    try:
        said = json.loads(detail)
        error = said.get("error", said)
        detail = error.get("message", detail) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        if detail.lstrip()[:1] == "<":
            return "a page of HTML, so no API"
    line = " ".join(str(detail).split()).rstrip(".")
    return line[:_SHOWN] + (" ..." if len(line) > _SHOWN else "")
