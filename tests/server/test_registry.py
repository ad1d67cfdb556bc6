"""Several models on one server: their names and versions, their swaps, and their sleep."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from penstock.core.errors import ConfigError, EngineDeadError, ModelFileError, NotFoundError
from penstock.server.app import build_app
from penstock.server.declared import DeclaredModel
from penstock.server.observe import Observer
from penstock.server.registry import ModelRegistry
from penstock.server.settings import ServerSettings
from support.asking import CHAT, COMPLETIONS, error_of, events
from support.eventually import eventually
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from penstock.engine.config import EngineConfig


class Workshop:
    """Makes fake engines, and remembers them; what it is told to break fails to start."""

    def __init__(self, directory: Path, *declared: DeclaredModel) -> None:
        self.directory = directory
        self.declared: Sequence[DeclaredModel] = declared
        self.made: list[_Engine] = []
        self.hold: asyncio.Event | None = None  # a start waits for it
        self.broken: set[int] = set()  # by max_num_seqs, which tells the configurations apart
        self.observer = Observer()
        self.registry = ModelRegistry(self.observer, self._make, lambda: self.declared)

    def _make(self, config: EngineConfig) -> FakeEngine:
        self.made.append(_Engine(self, config))
        return self.made[-1]

    def model(self, name: str | None, number: int = 1, **options: Any) -> DeclaredModel:
        config = FakeEngine(self.directory, max_num_seqs=number).config
        return DeclaredModel(config=config, name=name, **options)


class _Engine(FakeEngine):
    def __init__(self, workshop: Workshop, config: EngineConfig) -> None:
        super().__init__(workshop.directory, held=True)
        self.config = msgspec.structs.replace(config)
        self.state = "starting"
        self._workshop = workshop

    async def start(self) -> None:
        await asyncio.sleep(0)
        if self._workshop.hold is not None:
            await self._workshop.hold.wait()
        if self.config.max_num_seqs in self._workshop.broken:
            raise ModelFileError("The file is broken.")
        self.state = "ready"


def with_models(workshop: Workshop, work: Callable[[httpx.AsyncClient], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        await workshop.registry.serve(workshop.declared)
        app = build_app(workshop.registry, ServerSettings(**settings), workshop.observer)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            try:
                await work(client)
            finally:
                await workshop.registry.close()

    asyncio.run(run())


async def chat(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post(CHAT, json={"messages": [{"role": "user", "content": "hi"}], **fields})


@pytest.fixture
def workshop(echo_model: Path) -> Workshop:
    return Workshop(echo_model)


def test_each_name_reaches_its_model_and_no_name_the_first(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a", aliases=("x",)), workshop.model("b", 2)]

    async def work(client: httpx.AsyncClient) -> None:
        for engine in workshop.made:
            engine.release(100)
        for asked, expected, engine in [(None, "a", 0), ("x", "x", 0), ("a", "a", 0), ("b", "b", 1)]:
            before = len(workshop.made[engine].added)
            answer = await chat(client, model=asked)
            assert answer.json()["model"] == expected
            assert len(workshop.made[engine].added) == before + 1
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(card["id"], card["root"]) for card in listed] == [("a", "a"), ("x", "a"), ("b", "b")]
        unknown = await chat(client, model="c")
        assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")
        metrics = (await client.get("/metrics")).text
        assert 'penstock_sequences_finished_total{model="a",reason="stop"} 3.0' in metrics
        assert 'penstock_sequences_finished_total{model="b",reason="stop"} 1.0' in metrics
        assert (await client.get("/health")).json()["models"] == {"a": "ready", "b": "ready"}

    with_models(workshop, work)


def test_the_name_of_several_versions_is_the_last_and_each_has_its_own(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a"), workshop.model("a", 2, version="2")]

    async def work(client: httpx.AsyncClient) -> None:
        for engine in workshop.made:
            engine.release(100)
        for asked in ("a", "a@1", "a@2"):
            assert (await chat(client, model=asked)).json()["model"] == asked
        assert [len(engine.added) for engine in workshop.made] == [1, 2]
        assert [card["id"] for card in (await client.get("/v1/models")).json()["data"]] == ["a", "a@1", "a@2"]

    with_models(workshop, work)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"name": "a"}, {"name": "b", "aliases": ("a",)}, "served as 'a'"),
        ({"name": "a", "aliases": ("x",)}, {"name": "b", "aliases": ("x",)}, "served as 'x'"),
        ({"name": "a"}, {"name": "a"}, "version 1"),
    ],
)
def test_two_models_of_one_name_are_refused_before_either_is_loaded(
    workshop: Workshop, first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    workshop.declared = [workshop.model(**first), workshop.model(**second)]
    with pytest.raises(ConfigError, match=said):
        asyncio.run(workshop.registry.serve(workshop.declared))
    assert workshop.made == []


def test_given_several_models_when_one_fails_at_the_start_then_the_error_says_which(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a", 1), workshop.model("b", 2)]
    workshop.broken = {2}
    with pytest.raises(ModelFileError, match="The model 'b': The file is broken"):
        asyncio.run(workshop.registry.serve(workshop.declared))


def test_a_swap_lets_what_runs_finish_on_the_old_model_and_gives_what_comes_to_the_new(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a")]

    async def work(client: httpx.AsyncClient) -> None:
        running = asyncio.create_task(client.post(COMPLETIONS, json={"prompt": "hello", "stream": True}))
        (old,) = workshop.made
        await eventually(lambda: old.running == 1, "the request runs")
        await workshop.registry.reload("a")
        _, new = workshop.made
        new.release(100)
        assert (await chat(client)).status_code == 200
        assert (len(old.added), len(new.added)) == (1, 1)
        assert old.state == "ready", "it has work to do"
        old.release(100)
        said = events((await running).text)
        assert (said[-1], said[-2]["choices"][0]["finish_reason"]) == ("[DONE]", "stop")
        del said, running
        await eventually(lambda: old.state == "stopped", "the old engine has ended")

    with_models(workshop, work)


def test_a_swap_that_fails_leaves_the_model_that_was_there(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a")]

    async def work(client: httpx.AsyncClient) -> None:
        workshop.declared = [workshop.model("a", 2)]
        workshop.broken = {2}
        with pytest.raises(ModelFileError):
            await workshop.registry.reload("a")
        workshop.made[0].release(100)
        assert (await chat(client)).status_code == 200
        assert (await client.get("/ready")).status_code == 200

    with_models(workshop, work)


def test_an_unloaded_model_is_not_there_until_it_is_loaded_again(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a"), workshop.model("b", 2)]

    async def work(client: httpx.AsyncClient) -> None:
        await workshop.registry.unload("b")
        await eventually(lambda: workshop.made[1].state == "stopped", "its engine has ended")
        refused = await chat(client, model="b")
        assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
        assert [card["id"] for card in (await client.get("/v1/models")).json()["data"]] == ["a"]
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/ready", params={"model": "b"})).status_code == 503
        await workshop.registry.reload("b")
        workshop.made[-1].release(100)
        assert (await chat(client, model="b")).status_code == 200
        with pytest.raises(NotFoundError):
            await workshop.registry.unload("c")
        with pytest.raises(NotFoundError):
            await workshop.registry.reload("c")

    with_models(workshop, work)


def test_a_model_nobody_uses_leaves_memory_and_is_back_for_the_next_request(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a", idle_unload=0.05)]

    async def work(client: httpx.AsyncClient) -> None:
        held = asyncio.create_task(client.post(COMPLETIONS, json={"prompt": "hello"}))
        (first,) = workshop.made
        await eventually(lambda: first.running == 1, "the request runs")
        watching = asyncio.create_task(workshop.registry.watch_idle())
        await asyncio.wait({held}, timeout=0.2)
        assert first.state == "ready", "it is in use"
        first.release(100)
        assert (await held).status_code == 200
        del held
        await eventually(lambda: first.state == "stopped", "it has left memory")
        assert (await client.get("/health")).json()["models"] == {"a": "asleep"}
        assert (await client.get("/ready")).status_code == 200
        watching.cancel()
        waking = [asyncio.create_task(chat(client)) for _ in range(3)]
        await eventually(lambda: len(workshop.made) == 2 and workshop.made[1].running == 3, "it is back")
        workshop.made[1].release(100)
        assert [answer.status_code for answer in await asyncio.gather(*waking)] == [200] * 3
        assert len(workshop.made) == 2, "it was loaded once for all three"

    with_models(workshop, work)


def test_a_model_that_cannot_be_woken_says_so_and_is_tried_again(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.declared = [workshop.model("a"), workshop.model("b", 2, preload=False)]

    async def work(client: httpx.AsyncClient) -> None:
        assert len(workshop.made) == 1
        workshop.broken = {2}
        refused = await chat(client, model="b")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "model_not_loaded")
        assert "The file is broken" not in error_of(refused)["message"], "a reason may name files"
        assert "The file is broken" in caplog.text
        workshop.broken = set()
        waking = asyncio.create_task(chat(client, model="b"))
        await eventually(lambda: workshop.made[-1].running == 1, "it is there")
        workshop.made[-1].release(100)
        assert (await waking).status_code == 200

    with_models(workshop, work)


def test_a_refresh_loads_what_is_new_swaps_what_changed_and_leaves_the_rest(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("same"), workshop.model("changed", 2), workshop.model("gone", 3)]

    async def work(client: httpx.AsyncClient) -> None:
        same, changed, gone = workshop.made
        workshop.declared = [
            workshop.model("same", aliases=("s",)), workshop.model("changed", 4), workshop.model("new", 5),
            workshop.model("broken", 6),
        ]  # fmt: skip
        workshop.broken = {6}
        await workshop.registry.refresh()
        await eventually(lambda: changed.state == gone.state == "stopped", "what isn't served any more has ended")
        assert same.state == "ready"
        assert [engine.config.max_num_seqs for engine in workshop.made[3:]] == [4, 5, 6]
        states = (await client.get("/health")).json()["models"]
        assert states == {"same": "ready", "changed": "ready", "new": "ready", "broken": "failed"}
        same.release(100)
        assert (await chat(client, model="s")).status_code == 200
        refused = await chat(client, model="broken")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "model_not_loaded")

    with_models(workshop, work)


def test_a_request_that_ends_before_its_answer_begins_does_not_keep_its_model(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a")]

    async def work(client: httpx.AsyncClient) -> None:
        refused = await chat(client, max_tokens=10**6)
        assert refused.status_code == 400
        await workshop.registry.unload("a")
        await eventually(lambda: workshop.made[0].state == "stopped", "nothing holds it")

    with_models(workshop, work)


def test_use_of_a_model_that_fails_to_load_says_so(workshop: Workshop) -> None:
    async def run() -> None:
        workshop.broken = {1}
        with pytest.raises(ModelFileError):
            await workshop.registry.serve([workshop.model("a")])
        with pytest.raises(EngineDeadError, match="log says why"):
            await workshop.registry.entries[0].use("a")

    asyncio.run(run())


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What only a garbage collector would find stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("prompt", ["hello", ["hello", "there"]])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.usefixtures("without_collector")
def test_a_request_that_fails_does_not_keep_its_model_until_the_collector_comes_by(
    workshop: Workshop, prompt: str | list[str], *, stream: bool
) -> None:
    workshop.declared = [workshop.model("a")]

    async def work(client: httpx.AsyncClient) -> None:
        (engine,) = workshop.made
        engine.release(100)
        engine.failure = ModelFileError("Something broke.")
        failed = await client.post(COMPLETIONS, json={"prompt": prompt, "stream": stream})
        assert "Something broke" in failed.text
        served = workshop.registry.entries[0].served
        assert served is not None
        await eventually(lambda: served.uses == 0, "nobody holds it", within=2)

    with_models(workshop, work)


@pytest.mark.usefixtures("without_collector")
def test_a_client_that_hangs_up_does_not_keep_its_model_until_the_collector_comes_by(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a")]

    async def work(client: httpx.AsyncClient) -> None:
        (engine,) = workshop.made
        gone = asyncio.create_task(client.post(COMPLETIONS, json={"prompt": ["hello", "there"]}))
        await eventually(lambda: engine.running == 2, "it runs")
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        del gone
        served = workshop.registry.entries[0].served
        assert served is not None
        await eventually(lambda: served.uses == 0, "nobody holds it", within=2)

    with_models(workshop, work)


def test_a_server_that_drains_wakes_and_loads_nothing(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a"), workshop.model("b", 2, preload=False)]

    async def work(client: httpx.AsyncClient) -> None:
        assert await workshop.registry.drain(1)
        refused = await chat(client, model="b")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "engine_draining")
        ready = await client.get("/ready", params={"model": "b"})
        assert (ready.status_code, error_of(ready)["code"]) == (503, "engine_draining")
        for change in (workshop.registry.reload("a"), workshop.registry.refresh()):
            with pytest.raises(EngineDeadError):
                await change
        assert len(workshop.made) == 1

    with_models(workshop, work)


def test_a_load_that_ends_after_the_drain_began_is_given_up(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("b", 2, preload=False)]

    async def work(client: httpx.AsyncClient) -> None:
        workshop.hold = asyncio.Event()
        waking = asyncio.create_task(chat(client))
        await eventually(lambda: len(workshop.made) == 1, "it is being loaded")
        await workshop.registry.drain(1)
        workshop.hold.set()
        refused = await waking
        assert (refused.status_code, error_of(refused)["code"]) == (503, "engine_draining")
        assert workshop.made[0].state == "stopped"

    with_models(workshop, work)


def test_a_caller_who_gives_up_does_not_end_the_load_that_others_wait_for(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("b", 2, preload=False)]

    async def work(client: httpx.AsyncClient) -> None:
        workshop.hold = asyncio.Event()
        hasty = asyncio.create_task(workshop.registry.use("b"))
        patient = asyncio.create_task(chat(client))
        await eventually(lambda: len(workshop.made) == 1, "it is being loaded")
        hasty.cancel()
        await asyncio.gather(hasty, return_exceptions=True)
        workshop.hold.set()
        await eventually(lambda: workshop.made[-1].running == 1, "the other's request runs")
        workshop.made[-1].release(100)
        assert (await patient).status_code == 200
        assert len(workshop.made) == 1

    with_models(workshop, work)


def test_requests_of_a_model_that_is_gone_are_drained_and_its_engine_is_closed(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a"), workshop.model("gone", 2)]

    async def work(client: httpx.AsyncClient) -> None:
        running = asyncio.create_task(client.post(COMPLETIONS, json={"prompt": "hi", "model": "gone", "stream": True}))
        gone = workshop.made[1]
        await eventually(lambda: gone.running == 1, "the request runs")
        workshop.declared = [workshop.declared[0]]
        await workshop.registry.refresh()
        assert not await workshop.registry.drain(0.01), "one is in flight"
        await workshop.registry.close()
        assert gone.state == "stopped"
        await running

    with_models(workshop, work)


def test_a_refresh_tries_again_what_failed_and_leaves_out_of_memory_what_is_out_of_it(workshop: Workshop) -> None:
    workshop.declared = [
        workshop.model("asleep", 2, preload=False), workshop.model("unloaded", 3), workshop.model("a"),
    ]  # fmt: skip

    async def work(_client: httpx.AsyncClient) -> None:
        await workshop.registry.unload("unloaded")
        workshop.declared = [
            workshop.model("asleep", 5, preload=False), workshop.model("unloaded", 6), workshop.model("new", 7),
        ]  # fmt: skip
        workshop.broken = {7}
        await workshop.registry.refresh()
        states = {entry.name: entry.state for entry in workshop.registry.entries}
        assert states == {"asleep": "asleep", "unloaded": "unloaded", "new": "failed"}
        workshop.broken = set()
        await workshop.registry.refresh()
        states = {entry.name: entry.state for entry in workshop.registry.entries}
        assert states == {"asleep": "asleep", "unloaded": "unloaded", "new": "ready"}
        await workshop.registry.use("asleep")
        assert workshop.made[-1].config.max_num_seqs == 5, "as it is declared now"

    with_models(workshop, work)


def test_a_reload_of_a_sleeping_model_that_fails_leaves_it_asleep(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("b", 2, preload=False)]

    async def work(_client: httpx.AsyncClient) -> None:
        workshop.broken = {2}
        with pytest.raises(ModelFileError):
            await workshop.registry.reload("b")
        workshop.broken = set()
        assert (await workshop.registry.use("b")).name == "b"

    with_models(workshop, work)


def test_the_card_of_an_unloaded_model_is_as_little_there_as_its_name(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a"), workshop.model("b", 2)]

    async def work(client: httpx.AsyncClient) -> None:
        await workshop.registry.unload("b")
        card = await client.get("/v1/models/b")
        assert (card.status_code, error_of(card)["code"]) == (404, "model_not_found")
        unknown = await chat(client, model="c")
        assert "b" not in error_of(unknown)["message"].partition("there is")[2]

    with_models(workshop, work)


def test_a_reload_of_a_name_that_another_model_bears_is_refused(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a")]

    async def work(_client: httpx.AsyncClient) -> None:
        workshop.declared = [workshop.model("a"), workshop.model("b", 2, aliases=("a",))]
        with pytest.raises(ConfigError, match="served as 'a'"):
            await workshop.registry.reload("b")
        assert len(workshop.made) == 1

    with_models(workshop, work)


def test_the_figures_of_two_versions_are_told_apart(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a"), workshop.model("a", 2, version="2")]

    async def work(client: httpx.AsyncClient) -> None:
        metrics = (await client.get("/metrics")).text
        for label in ("a", "a@2"):
            assert f'penstock_engine_state{{model="{label}",state="ready"}} 1.0' in metrics

    with_models(workshop, work)


def test_an_alias_of_one_version_reaches_another_by_its_number(workshop: Workshop) -> None:
    workshop.declared = [workshop.model("a"), workshop.model("a", 2, version="2", aliases=("x",))]

    async def work(client: httpx.AsyncClient) -> None:
        for engine in workshop.made:
            engine.release(100)
        answer = await client.post("/v2/models/x/versions/1/generate", json={"text_input": "hi"})
        assert (answer.status_code, answer.json().get("model_version")) == (200, "1"), answer.text

    with_models(workshop, work)
