"""The store's verbs, on what is in it already: no network is touched here."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from penstock.core.errors import InvalidRequestError, NotFoundError, StoreError
from penstock.models import store
from penstock.models.store import staging
from penstock.models.store.entry import Manifest, StoredFile


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PENSTOCK_OFFLINE", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def put(name: str, content: bytes = b"weights", file: str = "model.gguf") -> Path:
    """Store a model as a pull does; returns its file."""
    key = staging.key_of(name)
    with staging.claimed(key, lambda *_: None) as work:
        built = work / "built"
        built.mkdir(parents=True)
        (built / file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        manifest = Manifest(name=name, source="test", load=file, files=[StoredFile(file, len(content), digest)])
        return staging.publish(built, key, manifest) / file


def test_the_store_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert put("a").is_relative_to(tmp_path / "home")
    monkeypatch.delenv("PENSTOCK_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert put("a").is_relative_to(tmp_path / "cache" / "penstock")


def test_an_empty_store_lists_nothing() -> None:
    assert store.list_models() == []


def test_stored_models_are_listed_by_name_and_found_in_any_case() -> None:
    put("hf:b/x:Q8_0")
    path = put("a")
    assert [model.name for model in store.list_models()] == ["a", "hf:b/x:Q8_0"]
    assert store.resolve("a") == store.resolve("A") == store.show("a").path == path


def test_a_removed_model_is_gone_and_its_open_file_stays_readable() -> None:
    path = put("a", b"still here")
    with path.open("rb") as file:
        assert store.remove("a").name == "a"
        assert store.list_models() == []
        assert file.read() == b"still here"
    with pytest.raises(NotFoundError, match="It is empty"):
        store.remove("a")


def test_a_model_that_is_being_pulled_is_not_removed() -> None:
    put("a")
    with staging.claimed("a", lambda *_: None), pytest.raises(StoreError, match="another process"):
        store.remove("a")
    assert store.show("a").problem is None


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "model.gguf is missing"),
        (lambda path: path.write_bytes(b"short"), "5 bytes instead of 7"),
        (lambda path: path.with_name("manifest.json").unlink(), "manifest can't be read"),
        (lambda path: path.with_name("manifest.json").write_text("{"), "manifest is not valid"),
        (lambda path: path.with_name("manifest.json").write_text('{"name": 3}'), "manifest is not valid"),
    ],
    ids=["file gone", "file cut", "manifest gone", "manifest torn", "manifest wrong"],
)
def test_a_damaged_model_is_listed_as_damaged_refused_and_removable(damage: object, problem: str) -> None:
    damage(put("a"))  # type: ignore[operator]
    (listed,) = store.list_models()
    assert problem in str(listed.problem)
    assert listed.as_dict()["path"] is None
    with pytest.raises(StoreError, match=r"damaged.*penstock models pull a"):
        store.resolve("a")
    store.remove("a")
    assert store.list_models() == []


def test_a_missing_model_offline_says_how_to_get_it() -> None:
    with pytest.raises(StoreError, match="penstock models pull smollm2") as refused:
        store.resolve("smollm2")
    assert refused.value.code == "offline"


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "PENSTOCK_OFFLINE"])
@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False)])
def test_offline_is_read_from_the_environment_and_overruled_by_the_caller(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, offline: bool
) -> None:
    monkeypatch.delenv("PENSTOCK_OFFLINE")
    monkeypatch.setenv(variable, value)
    assert store.store.is_offline() is offline
    assert store.store.is_offline(not offline) is not offline


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'smollm2'"):
        store.resolve("smolm2")
    put("my-model")
    with pytest.raises(NotFoundError, match="Did you mean 'my-model'"):
        store.resolve("my-modle")


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        store.resolve(" ")


def test_a_hub_name_without_its_prefix_is_recognised() -> None:
    for act in (store.resolve, store.pull):
        with pytest.raises((NotFoundError, InvalidRequestError), match="write hf:ada/tiny"):
            act("ada/tiny")


def test_a_file_is_itself(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    (tmp_path / "plain").write_bytes(b"")
    assert store.resolve("model.gguf") == Path("model.gguf")
    assert store.resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
    assert store.resolve("plain") == Path("plain")


def test_a_catalogue_name_wins_over_a_file_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "smollm2").write_bytes(b"")
    stored = put("smollm2")
    assert store.resolve("smollm2") == stored
    assert store.resolve("./smollm2") == Path("smollm2")


def test_a_path_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"no file or directory \./nothing\.gguf"):
        store.resolve("./nothing.gguf")


def test_a_directory_is_the_model_in_it(tmp_path: Path) -> None:
    (tmp_path / "st").mkdir()
    (tmp_path / "st/config.json").write_text("{}")
    assert store.resolve("./st") == Path("st")
    (tmp_path / "gg").mkdir()
    for part in (2, 1):
        (tmp_path / f"gg/m-0000{part}-of-00002.gguf").write_bytes(b"")
    assert store.resolve("./gg") == Path("gg/m-00001-of-00002.gguf")
    (tmp_path / "gg/other.gguf").write_bytes(b"")
    with pytest.raises(InvalidRequestError, match=r"several models.*gg/other\.gguf"):
        store.resolve("./gg")
    (tmp_path / "none").mkdir()
    with pytest.raises(NotFoundError, match="holds no model"):
        store.resolve("./none")


def test_a_store_that_cannot_be_written_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.parent.joinpath("file").write_bytes(b"")
    monkeypatch.setenv("PENSTOCK_HOME", str(home.parent / "file"))
    monkeypatch.delenv("PENSTOCK_OFFLINE")
    with pytest.raises(StoreError, match="PENSTOCK_HOME") as refused:
        store.pull("smollm2")
    assert refused.value.code == "not_writable"


def test_old_leftovers_of_other_models_are_cleaned_young_or_busy_ones_kept(home: Path) -> None:
    for name in ("old", "young", "busy"):
        (home / "partial" / name / "work").mkdir(parents=True)
    yesterday = time.time() - staging.ABANDONED_AFTER - 60
    for name in ("old", "busy"):
        os.utime(home / "partial" / name, (yesterday, yesterday))
    with staging.claimed("busy", lambda *_: None):
        staging.clean_leftovers(lambda *_: None)
    assert {path.name for path in (home / "partial").iterdir() if path.is_dir()} == {"young", "busy"}


def test_publishing_replaces_a_model_as_a_whole() -> None:
    put("a", b"first", "one.gguf")
    put("a", b"second", "two.gguf")
    directory = store.show("a").directory
    assert {path.name for path in directory.iterdir()} == {"two.gguf", "manifest.json"}
