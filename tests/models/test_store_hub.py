"""Models from a hub: which files are taken, and what a bad network or a lying hub can do."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from penstock.core.errors import InvalidRequestError, NotFoundError, StoreError
from penstock.models import store
from penstock.models.store.progress import tree_size
from support.eventually import eventually
from support.fake_hub import REVISION, FakeHub
from support.live_server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = "ada/tiny-GGUF"
GGUF = {
    "README.md": b"# tiny",
    "config.json": b"{}",
    "tiny-Q4_K_M.gguf": b"four" * 5000,
    "tiny-Q8_0.gguf": b"eight" * 5000,
    "tiny-f16.gguf": b"half" * 5000,
    "mmproj-tiny-Q4_K_M.gguf": b"vision",
}
SPLIT = {f"Q6_K/tiny-Q6_K-0000{part}-of-00003.gguf": b"%d" % part * 4000 for part in (1, 2, 3)}
SAFETENSORS = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": b"a" * 3000,
    "model-00002-of-00002.safetensors": b"b" * 3000,
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "original/consolidated.safetensors": b"not for us",
    "pytorch_model.bin": b"nor this",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "PENSTOCK_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # The library reads the variable when it is imported, which another test may have caused while it was set.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub(REPO, dict(GGUF))
    with serve(fake.app) as live:
        monkeypatch.setenv("HF_ENDPOINT", live.url)
        yield fake


def test_without_a_choice_the_usual_quantization_is_taken(hub: FakeHub) -> None:
    path = store.resolve(f"hf:{REPO}")
    assert path.name == "tiny-Q4_K_M.gguf"
    assert path.read_bytes() == GGUF["tiny-Q4_K_M.gguf"]
    assert [name for name, _ in hub.served] == ["tiny-Q4_K_M.gguf"]
    model = store.show(f"hf:{REPO}:Q4_K_M")
    assert model.manifest is not None
    assert model.manifest.source == f"hf:{REPO}@{REVISION}"
    assert model.manifest.license == "apache-2.0"


@pytest.mark.parametrize("choice", ["q8_0", "Q8_0", "tiny-Q8_0.gguf"])
def test_a_quantization_is_named_in_any_case_or_by_its_file(hub: FakeHub, choice: str) -> None:
    assert store.resolve(f"hf:{REPO}:{choice}").read_bytes() == GGUF["tiny-Q8_0.gguf"]


def test_what_is_in_the_store_needs_no_network(hub: FakeHub) -> None:
    store.pull(f"hf:{REPO}:Q8_0")
    hub.status = 500
    path = store.resolve(f"hf:{REPO}:q8_0", offline=True)
    assert path == store.resolve(f"hf:{REPO}", offline=True)
    assert path.read_bytes() == GGUF["tiny-Q8_0.gguf"]
    assert hub.listings == 1


def test_of_several_stored_quantizations_a_bare_name_means_the_preferred_one(hub: FakeHub) -> None:
    for choice in ("Q8_0", "Q4_K_M", "F16"):
        store.pull(f"hf:{REPO}:{choice}")
    assert store.resolve(f"hf:{REPO}", offline=True).name == "tiny-Q4_K_M.gguf"


def test_an_unknown_quantization_is_refused_with_the_list_and_the_nearest(hub: FakeHub) -> None:
    with pytest.raises(NotFoundError, match=r"Did you mean 'Q4_K_M'\? It has: F16, Q4_K_M, Q8_0"):
        store.pull(f"hf:{REPO}:Q4_K_N")


def test_a_quantization_that_two_files_have_is_refused_with_both(hub: FakeHub) -> None:
    hub.files["other-Q8_0.gguf"] = b"other" * 100
    with pytest.raises(InvalidRequestError, match=r"other-Q8_0\.gguf, tiny-Q8_0\.gguf") as refused:
        store.pull(f"hf:{REPO}:Q8_0")
    assert f"hf:{REPO}:other-Q8_0.gguf" in refused.value.message
    assert store.resolve(f"hf:{REPO}:other-Q8_0.gguf").read_bytes() == b"other" * 100
    assert store.resolve(f"hf:{REPO}:tiny-Q8_0.gguf").read_bytes() == GGUF["tiny-Q8_0.gguf"]


def test_all_parts_of_a_split_file_come_and_the_first_is_loaded(hub: FakeHub) -> None:
    hub.files |= SPLIT
    path = store.resolve(f"hf:{REPO}:Q6_K")
    assert path.name == "tiny-Q6_K-00001-of-00003.gguf"
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {
        name.rpartition("/")[2]: content for name, content in SPLIT.items()
    }


def test_a_split_file_with_a_part_missing_is_refused(hub: FakeHub) -> None:
    hub.files |= dict(list(SPLIT.items())[:2])
    with pytest.raises(StoreError, match="only 2 of the 3 parts"):
        store.pull(f"hf:{REPO}:Q6_K")


def test_a_safetensors_repository_gives_a_directory_with_what_a_loader_reads(hub: FakeHub) -> None:
    hub.files = dict(SAFETENSORS)
    path = store.resolve(f"hf:{REPO}")
    wanted = {name for name in SAFETENSORS if "/" not in name and not name.endswith(".bin")}
    assert {file.name for file in path.iterdir()} == wanted | {"manifest.json"}
    assert path == store.resolve(f"hf:{REPO}:safetensors", offline=True)


def test_an_encoders_repository_gives_what_says_how_it_pools_and_onnx_where_that_is_all(hub: FakeHub) -> None:
    said = {"config.json": b"{}", "modules.json": b"[]", "1_Pooling/config.json": b"{}", "tokenizer.json": b"{}"}
    hub.files = {**said, "model.safetensors": b"weights", "onnx/model.onnx": b"graph"}
    path = store.resolve(f"hf:{REPO}")
    assert (path / "1_Pooling" / "config.json").is_file()
    assert (path / "modules.json").is_file()
    assert not (path / "onnx").exists()
    hub.files = {**said, "onnx/model.onnx": b"graph", "onnx/model_quantized.onnx": b"smaller"}
    path = store.pull(f"hf:{REPO}", replace=True).path
    assert sorted(file.name for file in path.rglob("*.onnx")) == ["model.onnx"]


def test_a_repository_without_a_model_is_refused(hub: FakeHub) -> None:
    hub.files = {"README.md": b"", "pytorch_model.bin": b""}
    with pytest.raises(NotFoundError, match="neither GGUF files nor"):
        store.pull(f"hf:{REPO}")
    with pytest.raises(NotFoundError, match="no GGUF files"):
        store.pull(f"hf:{REPO}:Q4_K_M")


def test_a_file_that_changed_on_the_way_is_refused_and_fetched_again(hub: FakeHub, home: Path) -> None:
    hub.corrupt = {"tiny-Q4_K_M.gguf"}
    with pytest.raises(StoreError, match="SHA-256") as refused:
        store.pull(f"hf:{REPO}")
    assert refused.value.code == "checksum_mismatch"
    assert store.list_models() == []
    hub.corrupt = set()
    assert store.resolve(f"hf:{REPO}").read_bytes() == GGUF["tiny-Q4_K_M.gguf"]


def test_a_small_file_that_changed_on_the_way_is_refused_by_its_git_id(hub: FakeHub) -> None:
    hub.files = dict(SAFETENSORS)
    hub.corrupt = {"tokenizer.json"}
    with pytest.raises(StoreError, match="git id"):
        store.pull(f"hf:{REPO}")


def test_a_pull_that_is_killed_leaves_nothing_and_the_next_one_keeps_the_files_that_came_whole(
    hub: FakeHub, home: Path
) -> None:
    last = "model-00002-of-00002.safetensors"
    hub.files = {**SAFETENSORS, last: random.Random(1).randbytes(24 << 20)}  # the library writes pieces of 10 MiB
    hub.hold_after = {last: 16 << 20}
    with subprocess.Popen([sys.executable, "-m", "penstock.cli", "models", "pull", f"hf:{REPO}"]) as pull:
        asyncio.run(eventually(lambda: tree_size(home) >= 10 << 20, "the first piece is on disk"))
        pull.kill()
    assert store.list_models() == []
    with pytest.raises(StoreError, match="switched off"):
        store.resolve(f"hf:{REPO}", offline=True)

    before = {name for name, _ in hub.served}
    hub.hold_after, hub.served = {}, []
    path = store.resolve(f"hf:{REPO}")
    assert (path / last).read_bytes() == hub.files[last]
    assert "model-00001-of-00002.safetensors" in before
    assert {name for name, _ in hub.served} == {last, "model.safetensors.index.json", "tokenizer.json"}
    assert tree_size(home / "partial") == 0


def test_a_repository_that_is_not_there_is_named(hub: FakeHub) -> None:
    with pytest.raises(NotFoundError, match="no model ada/nothing"):
        store.pull("hf:ada/nothing")


def test_a_gated_repository_says_what_to_do(hub: FakeHub) -> None:
    hub.status, hub.error_code = 403, "GatedRepo"
    with pytest.raises(StoreError, match="HF_TOKEN") as refused:
        store.pull(f"hf:{REPO}")
    assert refused.value.code == "gated"


def test_a_hub_that_lists_files_outside_its_repository_is_refused(hub: FakeHub, home: Path) -> None:
    hub.files = {"../../../../evil-Q4_K_M.gguf": b"evil"}
    with pytest.raises(StoreError, match="outside its repository"):
        store.pull(f"hf:{REPO}")


def test_a_hub_that_cannot_be_reached_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="could not be fetched") as refused:
        store.pull(f"hf:{REPO}")
    assert refused.value.code == "fetch_failed"


@pytest.mark.parametrize(
    "name", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b:", "hf:../b", "hf:a/..", "hf:a/b--c", "hf:a b/c"]
)
def test_a_malformed_hub_name_is_refused_before_anything_is_asked(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="no hub name"):
        store.resolve(name)
