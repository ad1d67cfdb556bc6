"""What the server says of itself: health, readiness, version, latency, metrics, its page and its document."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import penstock
from penstock.engine.config import EngineStats
from penstock.server.latency import LatencyWindow
from penstock.server.settings import ServerSettings
from penstock.server.static import CONTENT_SECURITY_POLICY, Page
from penstock.telemetry.metrics import TABLE
from support.asking import CHAT, COMPLETIONS, ask, error_of
from support.fake_engine import FakeEngine
from support.listening import app_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

BODY = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


def with_app(engine: FakeEngine, work: Callable[[httpx.AsyncClient], Awaitable[Any]], **settings: Any) -> Any:
    """Run `work(client)` on one application."""

    async def run() -> Any:
        transport = httpx.ASGITransport(app_over(engine, ServerSettings(**settings)))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await work(client)

    return asyncio.run(run())


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def sample(found: dict[str, Metric], name: str, **labels: str) -> float:
    """One value; `name` is a sample's, such as "x_total"."""
    matches = [
        each.value
        for family in found.values()
        for each in family.samples
        if each.name == f"penstock_{name}" and labels.items() <= each.labels.items()
    ]
    assert len(matches) == 1, (name, matches)
    return matches[0]


@pytest.mark.proves(Health="status engine restarts models", Ready="status")
def test_health_is_200_whatever_the_engine_does_and_ready_only_when_it_can_serve(engine: FakeEngine) -> None:
    for state in ("starting", "ready", "restarting", "draining", "stopped"):
        engine.state = state  # type: ignore[assignment]
        health, ready = ask(engine, "GET", "/health"), ask(engine, "GET", "/ready")
        assert health.status_code == 200
        assert health.json() == {"status": "ok", "engine": state, "restarts": 0, "models": {"Echo-1B": state}}
        assert ready.status_code == (200 if state == "ready" else 503)
        if state != "ready":
            assert error_of(ready)["code"] == f"engine_{state}"


def test_a_draining_server_refuses_work_with_a_503(engine: FakeEngine) -> None:
    engine.state = "draining"
    response = ask(engine, "POST", CHAT, BODY)
    assert (response.status_code, error_of(response)["code"]) == (503, "engine_draining")


@pytest.mark.proves(Version="version model max_model_len runner")
def test_version_says_what_runs_on_what(engine: FakeEngine) -> None:
    assert ask(engine, "GET", "/version").json() == {
        "version": penstock.__version__,
        "model": "Echo-1B",
        "max_model_len": engine.info.max_model_len,
        "runner": engine.info.runner,
    }


def test_unknown_paths_and_wrong_methods_have_openais_shape(engine: FakeEngine) -> None:
    for method, path, status in [
        ("GET", "/nowhere", 404), ("POST", "/v1/images", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/", 404), ("POST", "/", 405), ("BREW", "/health", 405),
    ]:  # fmt: skip
        response = ask(engine, method, path)
        error_of(response)
        assert response.status_code == status, (method, path)
    assert ask(engine, "GET", CHAT).headers["allow"] == "POST"


# --- metrics ---


def test_every_row_of_the_table_is_exported_and_nothing_else_of_ours(engine: FakeEngine) -> None:
    ask_all = ask(engine, "GET", "/metrics")
    assert ask_all.headers["content-type"].startswith("text/plain; version=")
    found = families(ask_all.text)
    ours = {name for name in found if name.startswith("penstock_") and not name.endswith("_created")}
    assert ours == {row.full_name for row in TABLE}
    for row in TABLE:
        family = found[row.full_name]
        assert (family.type, family.documentation) == (row.kind, row.help)


def test_openmetrics_is_spoken_to_those_who_ask_for_it(engine: FakeEngine) -> None:
    response = ask(engine, "GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert len(list(parse_openmetrics(response.text))) >= len(TABLE)


def test_requests_are_counted_by_tokens_reason_route_and_status(engine: FakeEngine) -> None:
    async def work(client: httpx.AsyncClient) -> dict[str, Metric]:
        whole = (await client.post(CHAT, json=BODY)).json()["usage"]
        await client.post(CHAT, json={**BODY, "max_tokens": 3, "n": 2, "stream": True})
        await client.post(CHAT, json={"messages": []})
        await client.post(COMPLETIONS, json={"prompt": "a", "model": "x"})
        await client.request("BREW", "/nowhere/at/all")
        found = families((await client.get("/metrics")).text)
        prompt = whole["prompt_tokens"]
        assert sample(found, "prompt_tokens_total") == 2 * prompt
        assert sample(found, "request_generation_tokens_sum") == whole["completion_tokens"] + 6
        return found

    found = with_app(engine, work)
    assert sample(found, "sequences_finished_total", reason="stop") == 1
    assert sample(found, "sequences_finished_total", reason="length") == 2
    assert sample(found, "sequences_finished_total", reason="abort") == 0
    for name in ("time_to_first_token_seconds", "request_seconds", "request_queue_seconds", "request_prompt_tokens"):
        assert sample(found, f"{name}_count") == 2, name
    inter_token = sample(found, "inter_token_seconds_count")
    generated = sample(found, "request_generation_tokens_sum")
    assert inter_token == generated - 3, "one gap less than tokens, for each of three sequences"
    assert sample(found, "http_requests_total", method="POST", route=CHAT, status="200") == 2
    assert sample(found, "http_requests_total", method="POST", route=CHAT, status="400") == 1
    assert sample(found, "http_requests_total", method="POST", route=COMPLETIONS, status="404") == 1
    assert sample(found, "http_requests_total", method="other", route="other", status="404") == 1
    assert sample(found, "http_requests_in_flight") == 1, "the scrape itself"
    assert sample(found, "build_info", model="Echo-1B", device="cpu", version=penstock.__version__) == 1
    assert sample(found, "engine_config_info", model="Echo-1B", max_num_seqs="256", enable_prefix_caching="True") == 1


def test_the_engines_figures_are_read_at_each_scrape(engine: FakeEngine) -> None:
    engine.stats = EngineStats(
        running=3, waiting=5, kv_blocks_used=64, kv_blocks_total=256, prefix_query_tokens=100, prefix_hit_tokens=40,
        preemptions=2, steps=7, prompt_tokens=60, generation_tokens=21,
    )  # fmt: skip
    engine.restarts = 1
    found = families(ask(engine, "GET", "/metrics").text)
    expected = {
        "requests_running": 3, "requests_waiting": 5, "kv_blocks_used": 64, "kv_blocks": 256,
        "kv_cache_usage_ratio": 0.25, "prefix_cache_query_tokens_total": 100, "prefix_cache_hit_tokens_total": 40,
        "preemptions_total": 2, "engine_steps_total": 7, "prompt_tokens_computed_total": 60,
        "generation_tokens_total": 21, "engine_restarts_total": 1,
    }  # fmt: skip
    assert {name: sample(found, name) for name in expected} == expected
    assert sample(found, "engine_state", state="ready") == 1
    assert sample(found, "engine_state", state="draining") == 0


def test_several_servers_in_one_process_count_apart(engine: FakeEngine, echo_model: Path) -> None:
    async def busy(client: httpx.AsyncClient) -> dict[str, Metric]:
        await client.post(CHAT, json=BODY)
        return families((await client.get("/metrics")).text)

    async def idle(client: httpx.AsyncClient) -> dict[str, Metric]:
        return families((await client.get("/metrics")).text)

    assert sample(with_app(engine, busy), "request_seconds_count") == 1
    assert sample(with_app(FakeEngine(echo_model), idle), "request_seconds_count") == 0


# --- latency ---


@pytest.mark.proves(
    latency="target_ms",
    LatencyReport="target_ms requests window_seconds duration time_to_first_token",
    LatencySummary="within_target p50_ms p95_ms p99_ms",
)
def test_the_latency_report_has_shares_and_percentiles_of_real_requests(engine: FakeEngine) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        empty = (await client.get("/performance/latency")).json()
        nothing = {"within_target": None, "p50_ms": None, "p95_ms": None, "p99_ms": None}
        assert (empty["requests"], empty["target_ms"], empty["duration"]) == (0, 50.0, nothing)
        for _ in range(3):
            await client.post(CHAT, json=BODY)
        report = (await client.get("/performance/latency", params={"target_ms": 1e6})).json()
        assert (report["requests"], report["target_ms"], report["duration"]["within_target"]) == (3, 1e6, 1.0)
        strict = (await client.get("/performance/latency", params={"target_ms": 1e-6})).json()
        assert strict["time_to_first_token"]["within_target"] == 0.0
        assert 0 < strict["time_to_first_token"]["p50_ms"] <= strict["duration"]["p50_ms"]

    with_app(engine, work)


@pytest.mark.parametrize("target", ["0", "-1", "nan", "inf", "fast", ""])
def test_a_target_that_is_no_time_is_named(engine: FakeEngine, target: str) -> None:
    response = ask(engine, "GET", f"/performance/latency?target_ms={target}")
    assert (response.status_code, error_of(response)["param"]) == (400, "target_ms")


def test_the_target_is_a_setting(engine: FakeEngine) -> None:
    assert ask(engine, "GET", "/performance/latency", latency_target_ms=200).json()["target_ms"] == 200


def test_percentiles_are_nearest_rank_and_the_target_counts_as_within() -> None:
    window = LatencyWindow()
    for milliseconds in range(100, 0, -1):
        window.add(milliseconds / 1e3, milliseconds / 2e3)
    report = window.report(50)
    assert (report.duration.p50_ms, report.duration.p95_ms, report.duration.p99_ms) == (50, 95, 99)
    assert report.duration.within_target == 0.5
    assert report.time_to_first_token.within_target == 1.0


def test_the_window_is_bounded_in_number_and_in_time() -> None:
    now = 0.0
    window = LatencyWindow(seconds=10, requests=3, clock=lambda: now)
    for duration in (1, 2, 3, 4):
        window.add(duration, duration)
    assert (window.report(50).requests, window.report(50).duration.p50_ms) == (3, 3000)
    now = 10.5
    window.add(5, 5)
    assert window.report(50).requests == 1


# --- the page ---


def test_the_page_and_its_files_are_served_with_types_and_rules(engine: FakeEngine) -> None:
    page = ask(engine, "GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!doctype html>")
    script = ask(engine, "GET", "/page/app.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert ask(engine, "GET", "/page/style.css").headers["content-type"] == "text/css; charset=utf-8"
    for response in (page, script):
        assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-cache"
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_a_file_that_has_not_changed_is_a_304(engine: FakeEngine) -> None:
    first = ask(engine, "GET", "/page/app.js")
    again = ask(engine, "GET", "/page/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert ask(engine, "GET", "/page/app.js", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page//etc/passwd", "/page/", "/page/x.js"]
)
def test_nothing_outside_the_folder_can_be_asked_for(engine: FakeEngine, path: str) -> None:
    assert ask(engine, "GET", path).status_code == 404


def test_only_known_kinds_of_files_are_served(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / "notes.txt").write_text("private")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.svg").write_text("<svg/>")
    assert sorted(Page(tmp_path)._files) == ["index.html", "sub/a.svg"]
