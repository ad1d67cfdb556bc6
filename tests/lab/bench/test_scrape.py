"""The server's own metrics: read from pages of each engine, over a window."""

from __future__ import annotations

import math
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse, Response

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.scrape import Scraper, Window
from penstock.lab.bench.server_metrics import DCGM, ENGINES, Reading, engine_of, quantile, read, samples_of
from penstock.lab.bench.stub import Stub
from penstock.telemetry.metrics import TABLE
from support.one_answer import answering, stream

VLLM = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="0",model_name="other"} 50.0
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{engine="0",model_name="m"} 0.5
# TYPE vllm:request_success_total counter
vllm:request_success_total{finished_reason="stop",model_name="m"} 5.0
vllm:request_success_total{finished_reason="length",model_name="m"} 7.0
vllm:request_success_total{finished_reason="abort",model_name="m"} 100.0
# TYPE vllm:time_per_output_token_seconds histogram
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 4.0
vllm:time_per_output_token_seconds_sum{model_name="m"} 0.25
vllm:time_per_output_token_seconds_count{model_name="m"} 4.0
"""
TGI = """\
# TYPE tgi_request_success counter
tgi_request_success{method="batch"} 9
# TYPE tgi_queue_size gauge
tgi_queue_size 2
# TYPE tgi_request_generated_tokens histogram
tgi_request_generated_tokens_bucket{le="+Inf"} 9
tgi_request_generated_tokens_sum 900
tgi_request_generated_tokens_count 9
# TYPE tgi_request_queue_duration histogram
tgi_request_queue_duration_bucket{le="+Inf"} 9
tgi_request_queue_duration_sum 0.9
tgi_request_queue_duration_count 9
"""
LLAMA_CPP = """\
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 30
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 40
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 1
"""
GPUS = """\
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{gpu="0"} 300
DCGM_FI_DEV_POWER_USAGE{gpu="1"} 350
# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0"} 0.5
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="1"} 1.0
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{gpu="0"} 1024
"""


def test_each_engines_page_is_recognised_and_read_for_one_model() -> None:
    samples = samples_of(VLLM)
    assert engine_of(samples) == "vllm"
    reading = read(ENGINES["vllm"], samples, "m")
    assert reading.values == {"running": 3.0, "kv_usage": 0.5, "finished": 12.0}
    assert reading.sums == {"itl": (0.25, 4.0)}
    samples = samples_of(TGI)
    assert engine_of(samples) == "tgi"
    reading = read(ENGINES["tgi"], samples, "m")
    assert reading.values == {"waiting": 2.0, "finished": 9.0, "generation_tokens": 900.0}
    assert reading.sums == {"queue": (0.9, 9.0)}
    samples = samples_of(LLAMA_CPP)
    assert engine_of(samples) == "llama.cpp"
    reading = read(ENGINES["llama.cpp"], samples, "m")
    assert reading.values == {"running": 2.0, "waiting": 1.0, "prompt_tokens": 30.0, "generation_tokens": 40.0}
    assert read(DCGM, samples_of(GPUS), None).values == {"gpu_power": 650, "gpu_usage": 0.75, "gpu_memory": 1 << 30}


def test_what_is_read_of_penstock_is_in_its_metric_table() -> None:
    exported = {row.full_name + ("_total" if row.kind == "counter" else "") for row in TABLE}
    assert {name for source in ENGINES["penstock"].values() for name in source.names} <= exported


@given(st.lists(st.lists(st.integers(0, 100), min_size=1), min_size=1, max_size=5))
def test_a_counter_grows_by_what_was_counted_whenever_the_server_starts_again(lives: list[list[int]]) -> None:
    window = Window("penstock")
    window.add(Reading({"finished": 0.0}))
    total = 0
    for life in lives:
        counted = 0
        for step in life:
            counted += step
            window.add(Reading({"finished": float(counted)}))
        total += counted
        window.add(Reading({"finished": 0.0}))  # read just after the start, so that no count is above the one before
    assert window.increase("finished") == total


def test_a_mean_is_of_the_window_alone() -> None:
    window = Window("penstock")
    window.add(Reading(sums={"ttft": (100.0, 10.0)}))
    window.add(Reading(sums={"ttft": (101.0, 14.0)}))
    assert window.mean("ttft") == (0.25, 4)
    assert window.mean("itl") is None


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_percentile_lies_in_the_bucket_that_the_observations_has(values: list[float], share: float) -> None:
    bounds = [0.1, 1.0, 5.0, 10.0, math.inf]
    found = quantile(share, {bound: float(sum(value <= bound for value in values)) for bound in bounds})
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    high = next(bound for bound in bounds if exact <= bound)
    low = max((bound for bound in bounds if bound < exact), default=0.0)
    assert found is not None
    assert low <= found <= min(high, 10.0)


def test_percentiles_are_of_the_window_alone_and_of_this_model() -> None:
    page = """\
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{{le="1.0",model_name="m"}} {}
vllm:request_queue_time_seconds_bucket{{le="2.0",model_name="m"}} {}
vllm:request_queue_time_seconds_bucket{{le="+Inf",model_name="m"}} {}
vllm:request_queue_time_seconds_sum{{model_name="m"}} 100
vllm:request_queue_time_seconds_count{{model_name="m"}} {}
vllm:request_queue_time_seconds_bucket{{le="+Inf",model_name="other"}} 1000
"""
    window = Window("vllm")
    for counts in ((10, 10, 10), (10, 19, 20)):  # nine between 1 and 2 s, one above
        window.add(read(ENGINES["vllm"], samples_of(page.format(*counts, counts[-1])), "m"))
    assert window.quantiles("queue", (0.5, 0.99)) == [pytest.approx(1 + 5 / 9), 2.0]
    assert window.describe(0.0)["queue"]["p90"] == pytest.approx(2.0)
    window.add(read(ENGINES["vllm"], samples_of(page.format(15, 15, 15, 15)), "m"))  # it started anew
    assert window.quantiles("queue", (0.5,)) == [pytest.approx(12.5 / 15)]
    assert Window("vllm").quantiles("queue", (0.5,)) is None
    assert quantile(0.5, {math.inf: 4.0}) is None


def test_a_page_that_fails_now_and_then_is_counted_and_passed_over() -> None:
    pages = chain([PlainTextResponse(VLLM)] * 2, repeat(PlainTextResponse("", 500)))
    with answering(lambda _: stream("a"), metrics=lambda: next(pages)) as url:
        scraper = Scraper.find(Endpoint.open(url))
        assert scraper is not None
        with scraper.window() as window:
            assert len(window.readings) == 1
        scraper.settle(window, 1)
    told = window.describe(0.0)
    assert told["failed_scrapes"] == 1
    assert told["series"]["running"] == [3.0]
    assert told["increases"] == {"finished": None}


def test_a_server_without_metrics_is_measured_without() -> None:
    with answering(lambda _: stream("a")) as url:
        assert Scraper.find(Endpoint.open(url)) is None
    with Stub() as stub:
        assert Scraper.find(Endpoint.open(stub.url), "off") is None


@pytest.mark.parametrize(
    ("page", "option", "said"),
    [
        ("up 1\n", "metrics", "holds no metrics of an engine known here: penstock, vllm, tgi, llama.cpp"),
        ("<html>", "metrics", "is no Prometheus page"),
        ("up 1\n", "dcgm", "holds no metrics of DCGM"),
        ("<html>", "dcgm", "is no Prometheus page"),
    ],
)
def test_a_page_that_was_named_must_be_one(page: str, option: str, said: str) -> None:
    def answer() -> Response:
        return PlainTextResponse(page)

    with answering(lambda _: stream("a"), elsewhere=answer) as url, pytest.raises(InvalidRequestError, match=said):
        Scraper.find(Endpoint.open(url), **{option: f"{url}/elsewhere"})
