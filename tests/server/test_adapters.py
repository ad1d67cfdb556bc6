"""Adapters over HTTP: model names like others, loaded and unloaded where the server allows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.core.errors import ConfigError
from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig
from penstock.models.load import load
from penstock.server.declared import DeclaredModel
from penstock.server.run import serve
from penstock.server.settings import ServerSettings
from support.adapters import write_adapter
from support.listening import listening
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from penstock.models.spec import ModelSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def spec(model: Path) -> ModelSpec:
    found, weights = load(model)
    weights.close()
    return found


@pytest.fixture(scope="module")
def lora_dir(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adapters")
    write_adapter(directory / "one", spec, seed=1)
    write_adapter(directory / "two", spec, seed=2)
    write_adapter(directory / "foreign", spec.__class__(**{**_fields(spec), "hidden_size": 32}), seed=2)
    return directory


def _fields(spec: ModelSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__slots__}


def with_server(
    model: Path, work: Callable[[httpx.AsyncClient], Awaitable[None]], *, adapters: dict[str, Path], **settings: Any
) -> None:
    """Run `work(client)` against a server of the tiny model under the name "base"."""

    async def run() -> None:
        modules = tuple((name, str(path)) for name, path in adapters.items())
        config = EngineConfig(
            model_path=str(model), dtype="float32", kv_memory=8 << 20, threads=1, lora_modules=modules
        )
        engine = EngineClient(config)
        await engine.start()
        async with (
            listening(engine, served_model_name="base", **settings) as url,
            httpx.AsyncClient(base_url=url, timeout=60) as client,
        ):
            await work(client)

    asyncio.run(run())


async def complete(client: httpx.AsyncClient, model: str) -> httpx.Response:
    return await client.post(
        "/v1/completions",
        json={"model": model, "prompt": "one two three", "max_tokens": 12, "temperature": 0, "ignore_eos": True},
    )


async def load_lora(client: httpx.AsyncClient, name: str, path: object, **more: Any) -> httpx.Response:
    return await client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path), **more})


@pytest.mark.proves(ModelCard="parent")
def test_an_adapter_is_a_model_of_its_own_beside_its_base(model: Path, lora_dir: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        base, one = await complete(client, "base"), await complete(client, "one")
        assert one.json()["model"] == "one"
        assert one.json()["choices"][0]["text"] != base.json()["choices"][0]["text"]
        cards = {card["id"]: card for card in (await client.get("/v1/models")).json()["data"]}
        assert cards["one"]["parent"] == "base"
        assert cards["one"]["root"] == str(lora_dir / "one")
        assert (cards["base"]["parent"], cards["base"]["root"]) == (None, "base")
        assert (await client.get("/v1/models/one")).json() == cards["one"]
        assert (await complete(client, "two")).status_code == 404

    with_server(model, work, adapters={"one": lora_dir / "one"})


@pytest.mark.proves(load_lora_adapter="lora_name lora_path base_model_name", unload_lora_adapter="lora_name")
def test_adapters_come_and_go_at_run_time(model: Path, lora_dir: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        assert (await load_lora(client, "two", "two", base_model_name="base")).status_code == 200
        text = (await complete(client, "two")).json()["choices"][0]["text"]
        taken = await load_lora(client, "two", lora_dir / "one")
        assert (taken.status_code, taken.json()["error"]["code"]) == (400, "adapter_exists")
        assert (await load_lora(client, "base", "one")).status_code == 400
        gone = await client.post("/v1/unload_lora_adapter", json={"lora_name": "two"})
        assert gone.status_code == 200
        assert (await complete(client, "two")).status_code == 404
        assert [card["id"] for card in (await client.get("/v1/models")).json()["data"]] == ["base"]
        for name in ("two", "base"):
            again = await client.post("/v1/unload_lora_adapter", json={"lora_name": name})
            assert again.status_code == 404
        assert (await load_lora(client, "two", lora_dir / "two")).status_code == 200
        assert (await complete(client, "two")).json()["choices"][0]["text"] == text

    with_server(model, work, adapters={}, lora_dir=lora_dir)


def test_paths_beyond_the_allowed_directory_and_what_is_no_adapter_are_refused(
    model: Path, lora_dir: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    outside = write_adapter(tmp_path / "outside", spec)
    link = lora_dir / "link"
    link.symlink_to(outside)
    cases = [
        (outside, 400, "lora_path_not_allowed"),
        ("../" + outside.name, 400, "lora_path_not_allowed"),
        ("link", 400, "lora_path_not_allowed"),
        ("/etc", 400, "lora_path_not_allowed"),
        ("a\0b", 400, "invalid_value"),
        ("none", 404, "adapter_not_found"),
        (".", 404, "adapter_not_found"),
        ("foreign", 422, "adapter_mismatch"),
    ]

    async def work(client: httpx.AsyncClient) -> None:
        for path, status, code in cases:
            refused = await load_lora(client, "x", path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code), path
        assert (await load_lora(client, "x", "one", base_model_name="none")).status_code == 404
        assert (await load_lora(client, "", "one")).status_code == 400
        assert (await load_lora(client, "a\nb", "one")).status_code == 400
        assert (await complete(client, "base")).status_code == 200

    try:
        with_server(model, work, adapters={}, lora_dir=lora_dir)
    finally:
        link.unlink()


def test_an_adapter_that_cannot_be_read_is_refused_by_the_field_that_names_it(
    model: Path, lora_dir: Path, spec: ModelSpec
) -> None:
    write_adapter(lora_dir / "whole", spec, modules_to_save=["lm_head"])
    half = write_adapter(lora_dir / "half", spec) / "adapter_model.safetensors"
    half.write_bytes(half.read_bytes()[:-100])
    cases = [
        ("whole", "invalid_adapter", "['lm_head']"),
        ("half", "invalid_adapter", "cut short"),
        ("foreign", "adapter_mismatch", "another base model"),
        (".", "adapter_not_found", "adapter_config.json"),
    ]

    async def work(client: httpx.AsyncClient) -> None:
        for path, code, part in cases:
            error = (await load_lora(client, "x", path)).json()["error"]
            assert (error["param"], error["code"]) == ("lora_path", code)
            assert part in error["message"]

    with_server(model, work, adapters={}, lora_dir=lora_dir)


def test_a_directory_for_adapters_that_is_not_there_ends_the_start(model: Path, tmp_path: Path) -> None:
    settings = ServerSettings(port=0, lora_dir=tmp_path / "none")
    declared = DeclaredModel.of(EngineConfig(model_path=str(model)), settings)
    with pytest.raises(ConfigError, match=r"--lora-dir: .*none is not a directory"):
        asyncio.run(serve([declared], settings))


def test_without_a_directory_for_them_nothing_is_loaded_or_unloaded(model: Path, lora_dir: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        refused = [
            await load_lora(client, "two", lora_dir / "two"),
            await client.post("/v1/unload_lora_adapter", json={"lora_name": "one"}),
        ]
        for answer in refused:
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "runtime_lora_disabled")
        assert (await complete(client, "one")).status_code == 200

    with_server(model, work, adapters={"one": lora_dir / "one"})
