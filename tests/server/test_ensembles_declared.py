"""What an ensemble may be: its table in the settings file, and the models that it is held against."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest

from penstock.core.errors import ConfigError, EngineDeadError, InvalidRequestError, ModelFileError, NotFoundError
from penstock.engine.config import EngineConfig
from penstock.server.declared import DeclaredModel
from penstock.server.ensembles.declared import Ensemble, Step, read_ensembles
from penstock.server.observe import Observer
from penstock.server.registry import ModelRegistry
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

ANSWER = Step(kind="generate", model="chat")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "penstock.toml"
    monkeypatch.setenv("PENSTOCK_CONFIG", str(path))
    return path


def test_a_table_is_read_with_its_defaults(config: Path) -> None:
    config.write_text("""
        [[ensembles]]
        name = "library"
        aliases = ["docs"]
        steps = [ { embed = "minilm", keep = 20 }, { rerank = "cross", keep = 4 }, { generate = "assistant" } ]
        [[ensembles]]
        name = "safe"
        steps = [ { guard = "toxicity", refuse = ["toxic"] }, { generate = "assistant" } ]
    """)
    library, safe = read_ensembles()
    assert library == Ensemble(
        name="library",
        aliases=("docs",),
        steps=(
            Step(kind="embed", model="minilm", keep=20),
            Step(kind="rerank", model="cross", keep=4),
            Step(kind="generate", model="assistant"),
        ),
    )
    assert (library.retrieves, safe.retrieves) == (True, False)
    assert safe.steps[0] == Step(kind="guard", model="toxicity", refuse=("toxic",), above=0.5)


STEPS = 'steps = [{ generate = "a" }]'


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (STEPS, "[[ensembles]] 1 in {} has no 'name'."),
        ('name = "e"', "[[ensembles]] 1 in {} has no 'steps'."),
        (f'name = "e"\nalias = ["x"]\n{STEPS}', "has no setting 'alias'. Did you mean 'aliases'?"),
        (f'name = ""\n{STEPS}', "a model's name must be printable and not empty"),
        (f'name = "e"\naliases = 1\n{STEPS}', "must be a list of strings"),
        ('name = "e"\nsteps = []', "steps: must be a list such as"),
        ('name = "e"\nsteps = ["a"]', "steps: must be a list such as"),
        ('name = "e"\nsteps = [{ embed = "a", keep = 1 }]', "'generate' must be the last step, and no other."),
        (
            'name = "e"\nsteps = [{ generate = "a" }, { embed = "a", keep = 1 }]',
            "'generate' must be the last step, and no other.",
        ),
        (f'name = "e"\n{STEPS[:-1]}, {{ generate = "b" }}]', "'generate' must be the last step, and no other."),
        ('name = "e"\nsteps = [{ generat = "a" }]', "step 1: needs one of guard, embed, rerank, generate"),
        ('name = "e"\nsteps = [{ generat = "a" }]', "Did you mean 'generate'?"),
        ('name = "e"\nsteps = [{ generate = "a", embed = "b" }]', "step 1: needs one of"),
        ('name = "e"\nsteps = [{ generate = "a", keep = 1 }]', "step 1 has no setting 'keep'."),
        ('name = "e"\nsteps = [{ generate = 5 }]', "step 1, generate: must be a string (it is 5)"),
        ('name = "e"\nsteps = [{ embed = "a" }, { generate = "a" }]', "step 1 has no 'keep'."),
        ('name = "e"\nsteps = [{ embed = "a", keep = 0 }, { generate = "a" }]', "step 1, keep: must be an integer"),
        ('name = "e"\nsteps = [{ guard = "a" }, { generate = "a" }]', "step 1 has no 'refuse'."),
        ('name = "e"\nsteps = [{ guard = "a", refuse = [] }, { generate = "a" }]', "refuse: must name a label"),
        (
            'name = "e"\nsteps = [{ guard = "a", refuse = ["x"], above = 2 }, { generate = "a" }]',
            "step 1, above: must be a number",
        ),
        (f'name = "e"\n{STEPS}\n[[ensembles]]\nname = "f"\naliases = ["e"]\n{STEPS}', "Two ensembles are called 'e'."),
    ],
)
def test_a_mistake_is_named_with_its_place(config: Path, table: str, said: str) -> None:
    config.write_text(f"[[ensembles]]\n{table}")
    with pytest.raises(ConfigError, match=re.escape(said.format(config))):
        read_ensembles()


class House:
    """Fake generators, and an encoder that is only described: it is asleep from the start."""

    def __init__(self, echo: Path, classifier: Path, ensembles: Sequence[Ensemble]) -> None:
        self.ensembles = ensembles
        self.fails = False
        self.chat = DeclaredModel(config=EngineConfig(model_path=str(echo)), name="chat", aliases=("gpt",))
        self.models = [
            self.chat,
            DeclaredModel(config=EngineConfig(model_path=str(classifier)), name="class", preload=False),
        ]

        def make(config: EngineConfig) -> FakeEngine:
            if self.fails:
                raise ModelFileError("The file is broken.")
            return FakeEngine(echo)

        self.registry = ModelRegistry(Observer(), make, lambda: self.models, lambda: self.ensembles)

    def run(self, work: Callable[[ModelRegistry], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await self.registry.serve(self.models)
                await work(self.registry)
            finally:
                await self.registry.close()

        asyncio.run(run())


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    config = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "fine", "1": "toxic"},
        "vocab_size": 9,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def guarded(name: str = "safe", *, refuse: str = "toxic", by: str = "class", answer: str = "chat") -> Ensemble:
    return Ensemble(
        name=name, steps=(Step(kind="guard", model=by, refuse=(refuse,)), Step(kind="generate", model=answer))
    )


async def nothing(_: ModelRegistry) -> None: ...


@pytest.mark.parametrize(
    ("ensemble", "said"),
    [
        (guarded("gpt"), "An ensemble and a model are both called 'gpt'."),
        (guarded("chat@1"), "An ensemble and a model are both called 'chat@1'."),
        (guarded(by="clas"), "step 'guard': no model 'clas' is declared. Did you mean 'class'?"),
        (guarded(answer="safe"), "step 'generate': no model 'safe' is declared."),
        (guarded(by="gpt"), "the model 'gpt' is of the kind 'generator', and this takes one of the kind 'classifier'"),
        (guarded(answer="class"), "'class' is of the kind 'classifier', and this takes one of the kind 'generator'"),
        (guarded(refuse="Toxic"), "has no label 'Toxic'; there is fine, toxic. Did you mean 'toxic'?"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_an_ensemble_that_cannot_be_stops_the_start_and_leaves_a_running_server_as_it_is(
    echo_model: Path, classifier: Path, ensemble: Ensemble, said: str, named: bool
) -> None:
    house = House(echo_model, classifier, [ensemble])
    if not named and "chat" not in ensemble.name:
        house.models.insert(0, DeclaredModel(config=EngineConfig(model_path=str(echo_model))))
    with pytest.raises(ConfigError, match=re.escape(said)):
        house.run(nothing)

    async def refresh(registry: ModelRegistry) -> None:
        house.ensembles = [ensemble]
        with pytest.raises(ConfigError, match=re.escape(said)):
            await registry.refresh()
        assert registry.names == ["chat", "gpt", "class", "safe"]
        assert (await registry.use_for_chat("safe")).name == "safe"

    house = House(echo_model, classifier, [guarded()])
    house.run(refresh)


def test_given_a_refresh_then_ensembles_come_change_and_go(echo_model: Path, classifier: Path) -> None:
    house = House(echo_model, classifier, [])

    async def work(registry: ModelRegistry) -> None:
        house.ensembles = [guarded(answer="gpt")]
        await registry.refresh()
        assert registry.names == ["chat", "gpt", "class", "safe"]
        held = await registry.use_for_chat("safe")
        house.ensembles = []
        await registry.refresh()
        assert registry.names == ["chat", "gpt", "class"]
        assert held.ensemble is not None  # what is being answered goes on
        with pytest.raises(NotFoundError):
            await registry.use_for_chat("safe")

    house.run(work)


def test_an_ensemble_whose_model_was_unloaded_is_not_listed_and_says_what_is_missing(
    echo_model: Path, classifier: Path
) -> None:
    house = House(echo_model, classifier, [guarded()])

    async def work(registry: ModelRegistry) -> None:
        await registry.unload("chat")
        assert registry.names == ["class"]
        with pytest.raises(NotFoundError, match="A model of 'safe' is not loaded"):
            registry.card("safe")
        with pytest.raises(NotFoundError, match="'chat' is not loaded"):
            await registry.use_for_chat("safe")
        await registry.reload("chat")
        assert "safe" in registry.names

    house.run(work)


def test_a_generator_that_is_asleep_is_woken_and_held_until_the_request_ends(
    echo_model: Path, classifier: Path
) -> None:
    house = House(echo_model, classifier, [guarded()])

    async def work(registry: ModelRegistry) -> None:
        entry = registry.find("chat")
        await entry.sleep()
        house.fails = True
        with pytest.raises(EngineDeadError, match="could not be loaded"):
            await registry.use_for_chat("safe")
        house.fails = False
        model = await registry.use_for_chat("safe")
        assert entry.served is not None
        assert entry.served.uses == 1
        del model
        assert entry.served.uses == 0

    house.run(work)


def test_an_adapter_cannot_take_an_ensembles_name(echo_model: Path, classifier: Path) -> None:
    house = House(echo_model, classifier, [guarded()])

    async def work(registry: ModelRegistry) -> None:
        with pytest.raises(InvalidRequestError) as raised:
            await registry.load_adapter("safe", "somewhere", None)
        assert raised.value.code == "adapter_exists"

    house.run(work)


def test_a_declared_adapter_may_answer(echo_model: Path, classifier: Path) -> None:
    house = House(echo_model, classifier, [guarded(answer="tuned")])
    house.models[0] = DeclaredModel(
        config=EngineConfig(model_path=str(echo_model), lora_modules=(("tuned", "x"),)), name="chat"
    )

    async def work(registry: ModelRegistry) -> None:
        registry.find("chat").adapters["tuned"] = "x"
        registry._name_all()
        model = await registry.use_for_chat("safe")
        assert (model.name, model.adapter) == ("safe", "tuned")

    house.run(work)
