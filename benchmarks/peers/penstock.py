"""Penstock itself, from the environment that runs this benchmark."""

from __future__ import annotations

import re
import sys
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.errors import BenchmarkError
from benchmarks.peers.base import HttpEngine, Peer, Place, free_port
from penstock.lab.bench.engines.environment import Recipe
from penstock.lab.bench.engines.process import Child

if TYPE_CHECKING:
    from benchmarks.workload import ModelFiles, Prompt


class PenstockEngine(HttpEngine):
    """Penstock, which tells about itself on its metrics page."""

    def wait_until_ready(self, probe: Prompt) -> None:
        super().wait_until_ready(probe)
        found = re.search(r"^penstock_build_info\{(.*)\} 1", self._metrics_page(), re.MULTILINE)
        labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1])) if found else {}
        self.configuration |= {name: labels[name] for name in ("device", "dtype", "attention") if name in labels}

    def gauge(self, name: str) -> float:
        """A metric of the model served. Raises BenchmarkError if there is none of that name."""
        found = re.search(rf"^{name}\{{.*\}} (\S+)", self._metrics_page(), re.MULTILINE)
        if found is None:
            raise BenchmarkError(f"The server has no metric {name}.")
        return float(found[1])

    def _metrics_page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as page:
            text: str = page.read().decode()
        return text


@dataclass(frozen=True)
class Penstock(Peer):
    """`penstock serve` with its defaults, but for `options`, and for `cache` in place of the user's."""

    name: ClassVar[str] = "penstock"
    distribution: ClassVar[str] = "penstock"
    packed_weights: ClassVar[bool] = True
    options: tuple[str, ...] = ("--no-enable-prefix-caching", "--speculation", "off")
    cache: Path | None = None

    def recipe(self) -> Recipe:
        return Recipe()

    def install(self, place: Place) -> None:
        """Nothing to do: it is imported here already."""

    def launch(self, place: Place, model: ModelFiles) -> PenstockEngine:
        port = free_port()
        command = [
            str(Path(sys.executable).with_name("penstock")), "serve", str(model.gguf),
            "--port", str(port), "--served-model-name", "model", *self.options,
        ]  # fmt: skip
        configuration: dict[str, Any] = {"options": list(self.options)}
        return PenstockEngine(
            self.name,
            version("penstock"),
            configuration,
            Child(
                command, place.logs / f"{self.name}.log", env={"PENSTOCK_HOME": str(self.cache)} if self.cache else {}
            ),
            port=port,
            takes_ids=True,
            extra={"ignore_eos": True, "stream_options": {"include_usage": True}},
        )
