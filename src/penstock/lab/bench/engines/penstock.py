"""Penstock itself, from the environment that runs the comparison."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

from penstock.lab.bench.engines.base import SERVED, Common, Engine, Launch, flags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place


class Penstock(Engine):
    name: ClassVar[str] = "penstock"
    summary: ClassVar[str] = "this program's own server"
    packed_weights: ClassVar[bool] = True

    def install(self, place: Place, say: Callable[[str], None]) -> None:  # noqa: ARG002 - the interface
        """Nothing to do: it is imported here already."""
        say("penstock: it is what runs here")

    def version(self, place: Place) -> str | None:  # noqa: ARG002 - the interface
        return version("penstock")

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:  # noqa: ARG002 - the interface
        chosen = {
            "max-model-len": str(common.context),
            "max-num-seqs": str(common.parallel),
            "max-num-batched-tokens": str(common.batch_tokens),
            "enable-prefix-caching" if common.prefix_cache else "no-enable-prefix-caching": "",
        }
        if not common.speculation:
            chosen["speculation"] = "off"
        if common.threads:
            chosen["threads"] = str(common.threads)
        chosen |= options
        command = [sys.executable, "-m", "penstock.cli", "serve", str(model.path), "--port", str(port)]
        return Launch(
            command=(*command, "--served-model-name", SERVED, *flags(chosen)), port=port,
            configuration={"weights": "as they are", "options": chosen},
        )  # fmt: skip
