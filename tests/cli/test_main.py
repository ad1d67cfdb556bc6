"""Help, mistakes and exit codes of the command."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.cli import main as cli
from penstock.cli.flags import SERVED_ENGINE, SERVER
from penstock.core.errors import ConfigError, EngineDeadError
from penstock.engine.config import EngineConfig
from penstock.engine.settings import EngineSettings
from penstock.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = [
    [], ["serve"], ["chat"], ["generate"], ["version"], ["models"], ["models", "list"], ["models", "pull"],
    ["models", "show"], ["models", "rm"], ["models", "verify"],
]  # fmt: skip
HEAVY = (
    "torch",
    "numpy",
    "pydantic",
    "huggingface_hub",
    "httpx",
    "starlette",
    "uvicorn",
    "tokenizers",
    "rich",
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(penstock: Callable[..., Any], command: list[str], flag: str) -> None:
    ran = penstock(*command, flag)
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: {' '.join(['penstock', *command])}")
    assert "…" not in ran.out


@pytest.mark.parametrize("command", [["serve"], ["chat"], ["generate"], ["models", "pull"]], ids=" ".join)
def test_the_help_of_what_a_newcomer_runs_has_examples(penstock: Callable[..., Any], command: list[str]) -> None:
    assert f"    {' '.join(['penstock', *command])}" in penstock(*command, "--help").out


def test_a_group_without_a_command_shows_its_help(penstock: Callable[..., Any]) -> None:
    for group in ([], ["models"]):
        ran = penstock(*group)
        assert ran.code == 2
        assert "Commands:" in ran.out


def test_the_version_is_that_of_the_package_and_of_its_rust_code() -> None:
    import penstock as package

    root = Path(__file__).parents[2]
    for file in ("pyproject.toml", "rust/Cargo.toml"):
        assert f'\nversion = "{package.__version__}"\n' in (root / file).read_text(encoding="utf-8")


def test_help_loads_nothing_heavy() -> None:
    program = "import sys; from penstock.cli.main import main; main(['--help']); "
    program += f"print(sorted(set({HEAVY}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["serv"], "serve"),
        (["models", "lst"], "list"),
        (["serve", "--prot", "1"], "--port"),
        (["serve", "--max-modle-len=1"], "--max-model-len"),
        (["serve", "--no-enable-prefix-cache"], "--no-enable-prefix-caching"),
        (["serve", "--dtype", "bfloat"], "bfloat16"),
        (["chat", "--device", "cdua"], "cuda"),
        (["serve", "--log-level", "Debug"], "debug"),
        (["models", "pull", "smolm2"], "smollm2"),
        (["--verison"], "--version"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_slip_of_the_pen_is_answered_with_the_nearest_right_word(
    penstock: Callable[..., Any], arguments: list[str], nearest: str
) -> None:
    ran = penstock(*arguments)
    assert ran.code in {2, 4}
    assert ran.out == ""
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1
    assert f"Did you mean '{nearest}'?" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["serve", "--port", "x"], 2, "'--port'"),
        (["serve", "--port", "70000"], 9, "--port: "),
        (["serve", "--kv-memory", "lots"], 9, "2GiB"),
        (["serve", "--host", "0.0.0.0"], 9, "--api-key"),
        (["serve", "./none.gguf"], 4, "no file or directory ./none.gguf"),
        (["serve", "--offline"], 8, "penstock models pull smollm2"),
        (["serve", "a", "b"], 2, "extra argument"),
        (["generate"], 2, "prompts"),
        (["generate", "none.jsonl", "-o", "o.jsonl"], 4, "no file none.jsonl"),
        (["generate", "p.jsonl"], 2, "--output"),
        (["generate", "p.jsonl", "-o", "o.jsonl", "--temperature", "9"], 2, "temperature must be from 0 to 2"),
        (["chat", "--url", "http://127.0.0.1:9", "-m", "hi"], 9, "penstock serve"),
        (["models", "show", "nothing"], 4, "It is empty"),
        (["models", "rm", "nothing"], 4, "It is empty"),
        (["models", "pull", "./x.gguf"], 2, "is a path"),
        (["models", "pull", "hf:x"], 2, "no hub name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_an_exit_code(
    penstock: Callable[..., Any], arguments: list[str], code: int, words: str
) -> None:
    ran = penstock(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1
    assert words in ran.err


@pytest.mark.parametrize("arguments", [["models", "show", "nothing", "--json"], ["models", "list", "--json", "--jsn"]])
def test_with_json_an_error_is_json(penstock: Callable[..., Any], arguments: list[str]) -> None:
    ran = penstock(*arguments)
    assert ran.out == ""
    error = json.loads(ran.err)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


def test_an_error_from_below_keeps_its_exit_code(penstock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise EngineDeadError("The core died\nin two lines.")

    monkeypatch.setattr("penstock.models.store.list_models", fail)
    assert penstock("models", "list").code == EngineDeadError.exit_code
    assert penstock("models", "list").err == "Error: The core died in two lines.\n"


def test_ctrl_c_ends_the_command_as_shells_expect(
    penstock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("penstock.models.store.list_models", interrupted)
    ran = penstock("models", "list")
    assert ran.code == 130
    assert "Traceback" not in ran.err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m penstock.cli serve --help | true"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr
    assert "Error" not in ran.stderr


def test_the_version_is_told_with_what_it_stands_on(penstock: Callable[..., Any]) -> None:
    import penstock as package

    told = json.loads(penstock("version", "--json").out)
    assert told["penstock"] == package.__version__
    assert {"python", "platform", "numpy", "tokenizers"} <= set(told)
    assert penstock("version").out == penstock("--version").out
    assert package.__version__ in penstock("--version").out


@pytest.mark.parametrize("table", [SERVED_ENGINE, SERVER], ids=["engine", "server"])
def test_every_setting_has_a_flag_that_shows_its_default(table: Any) -> None:
    settings: Any = EngineSettings if table is SERVED_ENGINE else ServerSettings
    fields = {field.name: field for field in dataclasses.fields(settings) if field.name != "model"}
    assert [row.name for row in table.rows] == list(fields)
    for row in table.rows:
        default = fields[row.name].default
        if isinstance(default, bool):
            assert row.default == ("on" if default else "off"), row.name
        elif row.kind in {int, float} and default is not None:
            assert row.default == str(default), row.name
        elif row.choices:
            assert default is None or row.default == default
            with pytest.raises(ConfigError) as refused:
                settings(**{row.name: "?"})
            assert tuple(re.findall(r"'(\w+)'", refused.value.message)) == row.choices


def test_the_engines_settings_are_the_engines_configuration(tmp_path: Path) -> None:
    defaults = EngineConfig(model_path=str(tmp_path))
    assert EngineSettings().config(lambda _: tmp_path) == defaults
    assert set(EngineSettings.names()) == {*EngineConfig.__struct_fields__} - {"model_path"} | {"model"}


def test_main_reads_the_processs_own_arguments(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["penstock", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out.startswith("penstock")


@pytest.mark.parametrize(
    ("words", "completed"),
    [("penstock ser", "serve"), ("penstock serve smo", "smollm2"), ("penstock serve --dtype b", "bfloat16"),
     ("penstock models pu", "pull"), ("penstock serve --max-num-s", "--max-num-seqs")],
)  # fmt: skip
def test_the_shell_completes_commands_options_values_and_models(words: str, completed: str) -> None:
    import os

    environment = {**os.environ, "_PENSTOCK_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split()) - 1)
    program = "from penstock.cli.main import main; main()"
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert completed in ran.stdout.split()
