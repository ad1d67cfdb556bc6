"""Who is let in: keys, probes, pages of other origins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import ConfigError
from penstock.server.settings import ServerSettings, is_loopback
from support.asking import CHAT, ask, error_of
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from pathlib import Path

BODY = {"messages": [{"role": "user", "content": "a"}]}
KEYS = {"api_keys": ["sk-one", "sk-two"]}
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


@pytest.mark.parametrize("authorization", ["Bearer sk-one", "bearer sk-two", "Bearer   sk-two "])
def test_any_of_the_keys_opens_the_api(engine: FakeEngine, authorization: str) -> None:
    response = ask(engine, "POST", CHAT, BODY, headers={"authorization": authorization}, **KEYS)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "missing_api_key"),
        ("Bearer", "invalid_api_key"),
        ("Bearer ", "invalid_api_key"),
        ("Bearer sk-on", "invalid_api_key"),
        ("Bearer sk-one2", "invalid_api_key"),
        ("Bearer SK-ONE", "invalid_api_key"),
        ("Basic sk-one", "invalid_api_key"),
        ("sk-one", "invalid_api_key"),
        (b"Bearer \xff\xfe", "invalid_api_key"),
    ],
)
def test_anything_else_is_a_401_that_says_how(engine: FakeEngine, authorization: str | bytes | None, code: str) -> None:
    headers: Any = {} if authorization is None else {"authorization": authorization}
    response = ask(engine, "POST", CHAT, BODY, headers=headers, **KEYS)
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (401, "authentication_error", code)
    assert response.headers["www-authenticate"] == "Bearer"
    assert "sk-" not in response.text
    assert not engine.added


def test_with_keys_set_every_path_but_the_page_and_the_probes_needs_one(engine: FakeEngine) -> None:
    closed = ["/v1/models", "/v1/models/x", "/version", "/performance/latency", "/openapi.json", "/nowhere", "/pages"]
    for path in closed:
        assert ask(engine, "GET", path, **KEYS).status_code == 401, path
    for path in ("/", "/page/app.js", "/health", "/ready", "/metrics"):
        assert ask(engine, "GET", path, **KEYS).status_code == 200, path
    for path in ("/health", "/ready", "/metrics"):
        assert ask(engine, "GET", path, **KEYS, public_probes=False).status_code == 401, path
        with_key = {"authorization": "Bearer sk-one"}
        assert ask(engine, "GET", path, headers=with_key, **KEYS, public_probes=False).status_code == 200, path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_without_a_key_only_loopback_may_be_listened_on(host: str) -> None:
    with pytest.raises(ConfigError, match="API key is needed"):
        ServerSettings(host=host).check_exposure()
    ServerSettings(host=host, api_keys=["k"]).check_exposure()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST.", "api.localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    ServerSettings(host=host).check_exposure()


def test_a_unix_socket_needs_no_key(tmp_path: Path) -> None:
    ServerSettings(host="0.0.0.0", uds=tmp_path / "s").check_exposure()


@pytest.mark.parametrize("key", ["", " ", "a b", "k\u00e9y", "a\nb"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key") as caught:
        ServerSettings.load(api_keys=(key,))
    assert not key.strip() or key not in caught.value.message


def test_keys_are_not_shown_with_the_settings() -> None:
    assert "sk-one" not in repr(ServerSettings(**KEYS))


# --- pages in the user's browser, on a server without keys ---


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", None, 200),
        ("localhost:8000", "http://localhost:8000", 200),
        ("[::1]:8000", "http://[::1]:8000", 200),
        ("127.0.0.1:8000", "https://evil.example", 403),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", 403),
        ("127.0.0.1:8000", "null", 403),
        ("evil.example:8000", "http://evil.example:8000", 403),
        ("evil.example", None, 403),
        ("127.0.0.1.evil.example", None, 403),
        ("localhost.evil.example", None, 403),
        ("127.0.0.1@evil.example", None, 403),
        ("[::1", None, 403),
    ],
)
def test_a_page_of_another_origin_or_a_rebound_name_is_turned_away(
    engine: FakeEngine, host: str, origin: str | None, status: int
) -> None:
    headers = {"host": host, **({} if origin is None else {"origin": origin})}
    response = ask(engine, "POST", CHAT, BODY, headers=headers)
    assert response.status_code == status
    if status == 403:
        assert error_of(response)["code"] == "origin_not_allowed"
        assert not engine.added


def test_names_and_origins_may_be_allowed(engine: FakeEngine) -> None:
    inside = {"host": "penstock.lan", "origin": "http://penstock.lan"}
    assert ask(engine, "POST", CHAT, BODY, headers=inside, allowed_hosts=["penstock.lan"]).status_code == 200
    other = {"origin": "https://app.example"}
    assert ask(engine, "POST", CHAT, BODY, headers=other, cors_origins=["https://app.example"]).status_code == 200
    assert ask(engine, "POST", CHAT, BODY, headers=other, cors_origins=["*"]).status_code == 200


def test_a_key_takes_the_place_of_both_checks(engine: FakeEngine) -> None:
    headers = {"host": "any.example", "origin": "https://evil.example", "authorization": "Bearer sk-one"}
    assert ask(engine, "POST", CHAT, BODY, headers=headers, **KEYS).status_code == 200


def test_cors_lets_an_allowed_page_read_answers_and_errors(engine: FakeEngine) -> None:
    allowed = {"cors_origins": ["https://app.example"], **KEYS}
    origin = {"origin": "https://app.example"}
    preflight = ask(engine, "OPTIONS", CHAT, headers={**origin, **PREFLIGHT}, **allowed)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "https://app.example")
    refused = ask(engine, "POST", CHAT, BODY, headers=origin, **allowed)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")
    with_key = {**origin, "authorization": "Bearer sk-one"}
    answer = ask(engine, "POST", CHAT, {**BODY, "x": 1}, headers=with_key, **allowed)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-penstock-ignored-fields" in answer.headers["access-control-expose-headers"]
    stranger = ask(engine, "OPTIONS", CHAT, headers={"origin": "https://evil.example", **PREFLIGHT}, **allowed)
    assert "access-control-allow-origin" not in stranger.headers


def test_without_cors_no_page_is_told_anything(engine: FakeEngine) -> None:
    response = ask(engine, "POST", CHAT, BODY, headers={"origin": "https://app.example"}, **KEYS)
    assert "access-control-allow-origin" not in response.headers
