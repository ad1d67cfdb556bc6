"""How the native runner cuts its products up, as it found out by trying, from one start to the next.

One file for each kind of machine in the cache directory. Losing it costs a few steps of trying again and never a
result, so nothing about it is an error.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from typing import TYPE_CHECKING

from penstock.core.paths import cache_dir
from penstock.core.processor import cpu_model

if TYPE_CHECKING:
    from penstock._native import Plan

log = logging.getLogger(__name__)

# Raised whenever plans mean something else, or there are other candidates.
_VERSION = 1
_LIMIT = 256  # a plan's numbers are below; which of them it may have the runner knows


class PlansFile:
    """The plans for this processor with these settings, which are what timings depend on.

    Args:
        settings: the instruction path, the number of threads, and the like.
    """

    def __init__(self, **settings: object) -> None:
        self._of = {"version": str(_VERSION), "cpu": cpu_model(), **{k: str(v) for k, v in settings.items()}}
        name = hashlib.sha256(json.dumps(self._of, sort_keys=True).encode()).hexdigest()[:24]
        self.path = cache_dir() / "plans" / f"{name}.json"

    def read(self) -> dict[str, Plan]:
        """What is known; nothing if there is no such file, or none that makes sense."""
        try:
            content = json.loads(self.path.read_bytes())
            if content["of"] != self._of:
                return {}
            return {case: _plan(numbers) for case, numbers in content["plans"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.info("%s isn't read: %s", self.path, error)
            return {}

    def add(self, plans: dict[str, Plan]) -> None:
        """Write these beside what other models' steps have found."""
        content = {"of": self._of, "plans": self.read() | plans}
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(content, indent=1, sort_keys=True))
            partial.replace(self.path)
        except OSError as error:
            log.info("%s isn't written: %s", self.path, error)


def _plan(numbers: list[int]) -> Plan:
    together, block, runs = map(int, numbers)
    if not all(0 < number < _LIMIT for number in (together, block, runs)):
        raise ValueError(f"no plan has the numbers {numbers}")
    return together, block, runs
