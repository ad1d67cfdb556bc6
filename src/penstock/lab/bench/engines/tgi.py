"""Hugging Face's Text Generation Inference, by its launcher."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, ClassVar

from penstock.lab.bench.engines.base import Common, Engine, Launch, flags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place

_LAUNCHER = "text-generation-launcher"


class Tgi(Engine):
    name: ClassVar[str] = "tgi"
    summary: ClassVar[str] = f"Text Generation Inference, where {_LAUNCHER} is on the PATH"
    installable: ClassVar[bool] = False
    not_run: ClassVar[str] = (
        f"put {_LAUNCHER} on the PATH (its container has it); the launcher was tried against a stub alone"
    )

    def install(self, place: Place, say: Callable[[str], None]) -> None:  # noqa: ARG002 - the interface
        """It comes as a container. Raises NotFoundError unless it is here."""
        self.require_installed(place)

    def version(self, place: Place) -> str | None:  # noqa: ARG002 - the interface
        return "unknown" if shutil.which(_LAUNCHER) else None

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        self.require_installed(place)
        chosen = {
            "max-total-tokens": str(common.context),
            "max-input-tokens": str(common.context - 1),
            "max-concurrent-requests": str(max(128, 4 * common.parallel)),  # more are refused, not queued
            "max-batch-size": str(common.parallel),
            "max-batch-prefill-tokens": str(max(common.batch_tokens, common.context)),
            **options,
        }
        settings = {"USE_PREFIX_CACHING": "1" if common.prefix_cache else "0"}
        return Launch(
            command=(
                shutil.which(_LAUNCHER) or _LAUNCHER, "--model-id", str(model.safetensors),
                "--hostname", "127.0.0.1", "--port", str(port), *flags(chosen),
            ),
            port=port, env={"HF_HUB_OFFLINE": "1", **settings}, ignore_eos=False,
            configuration={"weights": "safetensors", "options": chosen, "environment": settings},
            differs=("It can't ignore the end of text: answers may be shorter than asked for.",),
        )  # fmt: skip
