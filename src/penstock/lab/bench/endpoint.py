"""The server under load: where it is, which API it speaks, and how a planned request is put to it."""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import httpx

from penstock.core.errors import AuthenticationError, InvalidRequestError, NotFoundError, OverloadedError
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from penstock.lab.bench.planned import Planned

Api = Literal["chat", "completions", "generate"]

_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_PROBE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One server and one model of it.

    `api` is OpenAI's "chat" or "completions", or the KServe protocol's "generate" extension (Triton). `body` is merged
    into every request.
    """

    base: str  # "http://127.0.0.1:8000", a prefix before /v1 included
    api: Api
    model: str
    ip: str
    port: int
    tls_name: str | None
    authorities: bytes | None = None  # certificates in PEM, trusted beside the system's
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # keys are in here
    body: Mapping[str, Any] = field(default_factory=dict)
    ignore_eos: bool = True  # the server knows the field; OpenAI's own refuses it
    stream: bool = True
    numbered: bool = True  # requests have an X-Request-Id; some servers want nothing but UUIDs there
    numbering: tuple[int, int] = (0, 1)  # the number of its first request there, and from one to the next

    @classmethod
    def open(
        cls,
        url: str,
        *,
        api: Api = "completions",
        model: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        ignore_eos: bool = True,
        stream: bool = True,
        ca: Path | None = None,
    ) -> Self:
        """Look the server up and ask for its models. `ca`: a file of certificates in PEM, for https.

        Raises:
            InvalidRequestError: the URL is none, what answers there is no such API, or `ca` can't be used.
            NotFoundError: nothing answers there, or it has no model of that name.
            AuthenticationError: it wants a key, or another.
            OverloadedError: it takes no requests now.
        """
        base, parts = _split(url)
        given = dict(headers or {}) | ({"authorization": f"Bearer {key}"} if key else {})
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        authorities, context = (None, ssl.create_default_context()) if ca is None else _trust(ca)
        ip = _reach(host, port, url)
        found = model if api == "generate" and model else _find_model(base, given, model, context)
        return cls(
            base=base, api=api, model=found, ip=ip, port=port, tls_name=host if parts.scheme == "https" else None,
            authorities=authorities, headers=given, body=dict(body or {}), ignore_eos=ignore_eos, stream=stream,
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Where requests go."""
        return self.base + self._path()

    def client(self, timeout: float) -> httpx.Client:
        """For pages beside the load, metrics among them; it trusts whom requests trust."""
        context = ssl.create_default_context()
        if self.authorities is not None:
            context.load_verify_locations(cadata=self.authorities.decode())
        return httpx.Client(timeout=timeout, verify=context)

    def encode(self, planned: Planned, number: int) -> bytes:
        """The whole HTTP request. Raises InvalidRequestError if this API can't ask for that."""
        body = json.dumps(self._body(planned)).encode()
        target = urlsplit(self.url)
        lines = [
            f"POST {target.path} HTTP/1.1",
            f"Host: {target.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *([f"X-Request-Id: bench-{self.numbering[0] + number * self.numbering[1]}"] if self.numbered else []),
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def _path(self) -> str:
        if self.api == "generate":
            return f"/v2/models/{self.model}/generate" + ("_stream" if self.stream else "")
        return _PATHS[self.api]

    def _body(self, planned: Planned) -> dict[str, Any]:
        prompt = planned.prompt
        if self.api == "generate":
            if not isinstance(prompt, str):
                raise InvalidRequestError("The generate API takes a prompt of text alone.", param="api")
            return {"text_input": prompt, "max_tokens": planned.max_tokens, **planned.extra, **self.body}
        body: dict[str, Any] = {"model": self.model, "max_tokens": planned.max_tokens, "stream": self.stream}
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        if planned.exact and self.ignore_eos:
            body["ignore_eos"] = True
        if self.api == "chat":
            if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
                raise InvalidRequestError("Chat takes no token ids; use the completions API.", param="api")
            body["messages"] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        else:
            if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
                raise InvalidRequestError("This workload is of conversations; use the chat API.", param="api")
            body["prompt"] = prompt
        return body | dict(planned.extra) | dict(self.body)


def _split(url: str) -> tuple[str, Any]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise InvalidRequestError(f"{url!r} is no http or https URL.", param="url")
    base = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/").removesuffix("/v1")
    return base, parts


def _trust(ca: Path) -> tuple[bytes, ssl.SSLContext]:
    """What is in the file, and the system's authorities with it."""
    context = ssl.create_default_context()
    try:
        pem = ca.read_bytes()
        context.load_verify_locations(cadata=pem.decode())
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise InvalidRequestError(
            f"{ca} holds no certificates in PEM that can be read: {error}.", param="ca"
        ) from error
    return pem, context


def _reach(host: str, port: int, url: str) -> str:
    """The first of the host's addresses that takes a connection: "localhost" is two, and a server may have only one."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotFoundError(f"The host {host!r} of {url} can't be found: {error}.", param="url") from error
    failed: OSError | None = None
    for family, _, _, _, address in found:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(_PROBE_TIMEOUT_S)
                probe.connect(address)
        except OSError as error:
            failed = failed or error
        else:
            return str(address[0])
    raise NotFoundError(f"Nothing answers at {url}: {failed}. Is the server up?", param="url") from failed


def _find_model(base: str, headers: Mapping[str, str], model: str | None, context: ssl.SSLContext) -> str:
    names = _models(base, headers, context)
    if model is None:
        if not names:
            raise NotFoundError(f"{base} serves no model.", param="model")
        return names[0]
    if model not in names:
        known = ", ".join(names[:10])
        raise NotFoundError(
            f"{base} serves no model {model!r}; it serves {known}.{did_you_mean(model, names)}", param="model"
        )
    return model


def _models(base: str, headers: Mapping[str, str], context: ssl.SSLContext) -> list[str]:
    """The names at `base`/v1/models."""
    try:
        answer = httpx.get(f"{base}/v1/models", headers=dict(headers), timeout=_PROBE_TIMEOUT_S, verify=context)
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.DecodingError) as error:
        what = str(error).rstrip(".") or "it broke the connection"
        raise InvalidRequestError(
            f"What answers at {base} doesn't speak HTTP as a server should: {what}. Check the URL.",
            param="url",
        ) from error
    except httpx.HTTPError as error:
        raise NotFoundError(
            f"Nothing answers at {base}: {str(error).rstrip('.')}. Is the server up?", param="url"
        ) from error
    status = answer.status_code
    if status in (401, 403):
        said = "refuses the key" if "authorization" in headers else "asks for a key"
        raise AuthenticationError(
            f"{base} {said} (status {status}); pass one with --api-key or OPENAI_API_KEY.", param="api_key"
        )
    if status in (429, 503):
        raise OverloadedError(
            f"{base} takes no requests now (GET /v1/models gave status {status}); it may still be starting.",
            code="unavailable",
        )
    try:
        return [str(entry["id"]) for entry in answer.raise_for_status().json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        moved = f", which sends one on to {answer.headers.get('location', 'nowhere')}," if answer.is_redirect else ""
        raise InvalidRequestError(
            f"{base} is no OpenAI-compatible server: GET /v1/models gave status {status}{moved} and no list of"
            " models. Check the URL, or name the API with --api.",
            param="url",
        ) from error
