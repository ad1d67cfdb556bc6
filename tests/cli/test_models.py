"""`penstock models` over a store on disk."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from penstock.models.store import staging
from penstock.models.store.entry import Manifest, StoredFile
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def stored(alone: Path) -> Path:
    """A real tiny model in the store as "tiny"; returns its directory."""
    with staging.claimed("tiny", lambda *_: None) as work:
        (work / "built").mkdir(parents=True)
        built = write_tiny_chat(work / "built")
        files = [
            StoredFile(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(built.iterdir())
        ]
        return staging.publish(built, "tiny", Manifest(name="tiny", source="test", load=".", files=files))


def test_an_empty_store_names_what_can_be_pulled(penstock: Callable[..., Any]) -> None:
    ran = penstock("models", "list")
    assert (ran.code, ran.out) == (0, "")
    assert "penstock models pull smollm2" in ran.err
    told = json.loads(penstock("models", "list", "--json").out)
    assert told["models"] == []
    assert told["available"][0]["name"] == "smollm2"


def test_a_stored_model_is_listed_shown_and_removed(penstock: Callable[..., Any], stored: Path) -> None:
    assert penstock("models", "list").out.splitlines()[1].split("\t")[0] == "tiny"
    assert json.loads(penstock("models", "list", "--json").out)["models"][0]["path"] == str(stored)
    shown = penstock("models", "show", "tiny")
    assert "source: test" in shown.out
    assert "llama" in shown.out
    facts = json.loads(penstock("models", "show", "tiny", "--json").out)
    assert facts["spec"]["n_layers"] == 3
    assert facts["parameters"] > 0
    assert json.loads(penstock("models", "rm", "tiny", "--json").out)["removed"] == "tiny"
    assert not stored.exists()
    assert penstock("models", "rm", "tiny").code == 4


def test_a_path_is_shown_and_verified_too(penstock: Callable[..., Any], stored: Path) -> None:
    assert json.loads(penstock("models", "show", stored, "--json").out)["spec"]["architecture"] == "llama"
    assert json.loads(penstock("models", "verify", stored, "--json").out)["ok"] is True


def test_a_sound_model_is_called_sound(penstock: Callable[..., Any], stored: Path) -> None:
    ran = penstock("models", "verify", "tiny")
    assert ran.code == 0
    assert "sound" in ran.out
    told = json.loads(penstock("models", "verify", "tiny", "--json").out)
    assert told["hashed_files"] == len(list(stored.iterdir())) - 1


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_one_flipped_bit_in_any_file_is_found(penstock: Callable[..., Any], stored: Path, file: str) -> None:
    content = bytearray((stored / file).read_bytes())
    content[-40] ^= 1
    (stored / file).write_bytes(content)
    ran = penstock("models", "verify", "tiny")
    assert ran.code == 8
    assert f"{file} has the SHA-256" in ran.out
    told = json.loads(penstock("models", "verify", "tiny", "--json").out)
    assert told["ok"] is False
    assert told["problems"]


def test_a_damaged_model_is_listed_and_shown_with_its_problem(penstock: Callable[..., Any], stored: Path) -> None:
    (stored / "model.safetensors").unlink()
    assert "model.safetensors is missing" in penstock("models", "list").out
    assert "problem: model.safetensors is missing" in penstock("models", "show", "tiny").out
    assert json.loads(penstock("models", "show", "tiny", "--json").out)["path"] is None
    assert penstock("models", "verify", "tiny").code == 8


def test_what_is_here_is_pulled_without_the_network(penstock: Callable[..., Any], stored: Path) -> None:
    ran = penstock("models", "pull", "smollm2", "--offline", "--json")
    assert ran.code == 8
    assert json.loads(ran.err)["error"]["code"] == "offline"
