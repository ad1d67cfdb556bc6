"""What is asked of an endpoint. Each workload is seeded: the same seed asks the same.

>>> workload = make("synthetic", {"input_tokens": "100-200"}, seed=1)
>>> next(workload.requests()).max_tokens
64
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean
from penstock.lab.bench.workloads.conversations import CONVERSATIONS
from penstock.lab.bench.workloads.documents import DOCUMENTS
from penstock.lab.bench.workloads.json_schema import JSON_SCHEMA
from penstock.lab.bench.workloads.own import OWN
from penstock.lab.bench.workloads.synthetic import PREFIXES, SYNTHETIC
from penstock.lab.bench.workloads.traces.kinds import AZURE, BURSTGPT, MOONCAKE, SERVEGEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.lab.bench.workloads.base import Workload
    from penstock.lab.bench.workloads.kinds import Kind
    from penstock.lab.bench.workloads.wordlist import Tokenizing

KINDS = {
    kind.name: kind
    for kind in (
        SYNTHETIC,
        PREFIXES,
        CONVERSATIONS,
        DOCUMENTS,
        JSON_SCHEMA,
        AZURE,
        MOONCAKE,
        BURSTGPT,
        SERVEGEN,
        OWN,
    )
}


def make(name: str, options: Mapping[str, Any], seed: int = 0, tokenizer: Tokenizing | None = None) -> Workload:
    """A workload by its name.

    Args:
        options: values as text or as TOML has them; what is left out has its default.
        tokenizer: of the model that is asked, so that prompts have exactly as many tokens as wanted.

    Raises:
        InvalidRequestError: no such workload or option, or a value that can't be.
        NotFoundError: a file that isn't there.
        ConfigError: the tokenizer can't make prompts of exact lengths.
    """
    return kind_of(name).make(options, seed, tokenizer)


def kind_of(name: str) -> Kind:
    """The kind of that name. Raises InvalidRequestError if there is none."""
    if name not in KINDS:
        raise InvalidRequestError(
            f"There is no workload {name!r}.{did_you_mean(name, KINDS)} There are {', '.join(KINDS)}.",
            param="workload",
            code="unknown_workload",
        )
    return KINDS[name]


def parse_workload(text: str) -> tuple[str, dict[str, str]]:
    """The name and options in `NAME[:FILE][?OPTION=VALUE[&OPTION=VALUE...]]`.

    >>> parse_workload("azure:trace.csv?speed=2&from=0")
    ('azure', {'path': 'trace.csv', 'speed': '2', 'from': '0'})

    Raises:
        InvalidRequestError: an option without "=", or one given twice.
    """
    head, _, query = text.partition("?")
    name, _, path = head.partition(":")
    options = {"path": path} if path else {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if not equals or key in options:
            problem = "is given twice" if equals else "has no value"
            raise InvalidRequestError(f"The option {key!r} of workload {name} {problem}.", param=key or "workload")
        options[key] = value
    return name, options
