"""Settings from three sources, the later wins; and every mistake named with its place."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import setting_kinds as kinds
from penstock.core.errors import ConfigError
from penstock.core.setting_kinds import choice, integer, names, setting, size, text
from penstock.core.settings import PenstockSettings, config_file, unknown_variables
from penstock.core.sizes import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

Level = Literal["low", "high"]


@dataclass(frozen=True, kw_only=True)
class Example(PenstockSettings):
    section: ClassVar[str] = "server"
    host: str = setting("127.0.0.1", text)
    port: int = setting(8000, integer(0, 65535))
    api_keys: tuple[str, ...] = setting((), names, secret=True)
    memory: int | None = setting(None, size())
    level: Level = setting("low", choice(Level))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings but the test's own; returns the working directory."""
    for name in list(os.environ):
        if name.startswith("PENSTOCK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_any_source_the_defaults_hold() -> None:
    assert Example.load() == Example()


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(alone / "penstock.toml", '[server]\nport = 1\nhost = "file"\nlevel = "high"\n')
    monkeypatch.setenv("PENSTOCK_PORT", "2")
    monkeypatch.setenv("PENSTOCK_HOST", "environment")
    settings = Example.load(port=3, host=None)
    assert (settings.port, settings.host, settings.level) == (3, "environment", "high")


def test_the_named_file_wins_over_the_one_here_which_wins_over_the_users(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config_file() is None
    write(tmp_path / "config/penstock/penstock.toml", "[server]\nport = 1\n")
    assert Example.load().port == 1
    write(alone / "penstock.toml", "[server]\nport = 2\n")
    assert Example.load().port == 2
    monkeypatch.setenv("PENSTOCK_CONFIG", str(write(tmp_path / "own.toml", "[server]\nport = 3\n")))
    assert Example.load().port == 3


def test_lists_and_sizes_are_written_as_people_do(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(alone / "penstock.toml", '[server]\napi-keys = ["a", "b"]\nmemory = "2GiB"\n')
    assert Example.load().api_keys == ("a", "b")
    assert Example.load().memory == 2 << 30
    monkeypatch.setenv("PENSTOCK_API_KEYS", "c, d,")
    monkeypatch.setenv("PENSTOCK_MEMORY", "1000")
    assert Example.load().api_keys == ("c", "d")
    assert Example.load().memory == 1000


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PORT", "")
    assert Example.load().port == 8000


def test_a_table_of_another_class_is_left_to_it(alone: Path) -> None:
    write(alone / "penstock.toml", "[engine]\nthreads = 3\n")
    assert Example.load() == Example()


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("[server]\nprot = 1\n", r"\[server\] in penstock\.toml has no setting 'prot'\. Did you mean 'port'\?"),
        ("[sever]\nport = 1\n", r"'sever'.*Did you mean 'server'\?"),
        ("port = 1\n", r"'port' stands outside the sections"),
        ("[server\n", r"not valid TOML: .*line 1"),
        ('[server]\nport = "x"\n', r"\[server\] port in penstock\.toml: .*integer.*'x'"),
        ("[server]\nport = 70000\n", r"\[server\] port in penstock\.toml: .*65535.*70000"),
        ('[server]\nlevel = "mid"\n', r"'low' or 'high'"),
    ],
    ids=["unknown setting", "unknown table", "no table", "no TOML", "wrong type", "out of range", "wrong choice"],
)
def test_a_mistake_in_the_file_is_named_with_its_place(alone: Path, file: str, sentence: str) -> None:
    write(alone / "penstock.toml", file)
    with pytest.raises(ConfigError, match=sentence):
        Example.load()


def test_a_mistake_in_the_environment_or_a_flag_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^--port: .*\(it is -1\)"):
        Example.load(port=-1)
    monkeypatch.setenv("PENSTOCK_MEMORY", "lots")
    with pytest.raises(ConfigError, match=r"environment variable PENSTOCK_MEMORY: 'lots' is not a size"):
        Example.load()


def test_a_file_that_is_named_but_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="PENSTOCK_CONFIG"):
        Example.load()


def test_an_api_key_never_stands_in_an_error(alone: Path) -> None:
    write(alone / "penstock.toml", "[server]\napi_keys = 12345\n")
    with pytest.raises(ConfigError) as refused:
        Example.load()
    assert "12345" not in refused.value.message


def test_a_kubernetes_service_link_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("PENSTOCK_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PENSTOCK_PORT_80_TCP", "tcp://10.0.0.1:80")
    assert Example.load().port == 8000
    assert unknown_variables(Example) == []


def test_a_variable_that_nobody_reads_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", "/x")
    monkeypatch.setenv("PENSTOCK_PROT", "1")
    (sentence,) = unknown_variables(Example)
    assert "PENSTOCK_PROT" in sentence
    assert "Did you mean 'PENSTOCK_PORT'?" in sentence


@pytest.mark.parametrize(
    ("read", "given", "value"),
    [
        (kinds.integer(0, 9), " 7 ", 7),
        (kinds.integer(1), 1, 1),
        (kinds.number(0, 1), "0.5", 0.5),
        (kinds.number(0), 2, 2.0),
        (kinds.number(0, above=True), "inf", math.inf),
        (kinds.switch, True, True),
        (kinds.switch, "Off", False),
        (kinds.switch, "YES", True),
        (kinds.switch, 0, False),
        (kinds.path, "a/b", Path("a/b")),
        (kinds.path, Path("a"), Path("a")),
        (kinds.names, ["a", "b"], ("a", "b")),
        (kinds.names, "a, b,", ("a", "b")),
        (kinds.size(1024), "1KiB", 1024),
    ],
)
def test_what_people_write_becomes_the_value(read: Callable[[object], object], given: object, value: object) -> None:
    assert read(given) == value
    assert type(read(given)) is type(value)
    assert read(value) == value


@pytest.mark.parametrize(
    ("read", "given", "reason"),
    [
        (kinds.integer(0, 9), 10, "an integer from 0 to 9"),
        (kinds.integer(1), 0, "an integer of at least 1"),
        (kinds.integer(1), 1.5, "integer"),
        (kinds.integer(1), True, "integer"),
        (kinds.number(0, 1, above=True), 0, "above 0 and at most 1"),
        (kinds.number(0), "nan", "a number of at least 0"),
        (kinds.number(0), "x", "number"),
        (kinds.number(0), False, "number"),
        (kinds.choice(Level), "mid", "must be 'low' or 'high'"),
        (kinds.switch, "perhaps", "true or false"),
        (kinds.switch, 2, "true or false"),
        (kinds.text, 1, "string"),
        (kinds.path, 1, "path"),
        (kinds.names, [1], "list of strings"),
        (kinds.size(1024), "1000", "at least 1024 bytes"),
        (kinds.size(), None, "size"),
    ],
)
def test_what_a_setting_cant_be_is_refused_with_a_reason(
    read: Callable[[object], object], given: object, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        read(given)


def test_settings_made_without_any_source_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^port: must be an integer from 0 to 65535 \(it is -1\)"):
        Example(port=-1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1), ("512", 512), ("2GiB", 2 << 30), ("2 gib", 2 << 30), ("2G", 2 << 30), ("2Gi", 2 << 30),
        ("2GB", 2_000_000_000), ("1.5MiB", 3 << 19), ("10kB", 10_000), ("7b", 7), (4096, 4096),
    ],
)  # fmt: skip
def test_a_size_is_read_with_its_unit(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "GiB", "-1", "0", "2 GiBs", "1e3", "nan", "2,5GB", "0.1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        parse_size(text)


@given(st.integers(1, 1 << 50))
def test_a_formatted_size_reads_back_as_about_the_same(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06)
