"""How the server listens and whom it lets in: the `[server]` table, `PENSTOCK_*` variables, flags."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from penstock.core.errors import ConfigError
from penstock.core.setting_kinds import choice, integer, names, number, path, setting, size, switch, text
from penstock.core.settings import PenstockSettings
from penstock.models.tool_families import Spelling

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
LogLevel = Literal["debug", "info", "warning", "error"]


def _keys(value: object) -> tuple[str, ...]:
    keys = names(value)
    for key in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError("an API key must be visible ASCII characters without spaces")
    return keys


def model_name(value: object) -> str:
    name = text(value)
    if not name.strip() or not name.isprintable():
        raise ConfigError("a model's name must be printable and not empty")
    return name


def model_names(value: object) -> tuple[str, ...]:
    return tuple(map(model_name, names(value)))


@dataclass(frozen=True, kw_only=True)
class ServerSettings(PenstockSettings):
    """Settings of `penstock serve`. `ServerSettings.load(**flags)` reads all sources."""

    section: ClassVar[str] = "server"

    host: str = setting("127.0.0.1", text)  # address to listen on; other than loopback, an API key is demanded
    port: int = setting(8000, integer(0, 65535))  # 0 takes a free one
    grpc_port: int | None = setting(None, integer(0, 65535))  # serves the KServe protocol over gRPC too; 0: a free one
    uds: Path | None = setting(None, path)  # Unix socket to listen on instead of host and port
    api_keys: tuple[str, ...] = setting(
        (), _keys, secret=True, flag="--api-key"
    )  # open the API, as `Authorization: Bearer KEY`
    public_probes: bool = setting(default=True, read=switch)  # /health, /ready and /metrics answer without a key
    served_model_name: str | None = setting(None, model_name)  # in the API; the file's own otherwise
    aliases: tuple[str, ...] = setting((), model_names, flag="--alias")  # more names that the model answers to
    # How the model writes tool calls; auto: its template tells.
    tool_format: Spelling = setting("auto", choice(Spelling))
    model_control: bool = setting(default=False, read=switch)  # clients may load and unload what is declared
    idle_unload: float | None = setting(None, number(0, above=True))  # seconds unused until a model leaves memory
    lora_dir: Path | None = setting(None, path)  # clients may load adapters below it, and unload any
    cors_origins: tuple[str, ...] = setting(
        (), names, flag="--cors-origin"
    )  # whose pages may call the API; `*` for all
    allowed_hosts: tuple[str, ...] = setting(
        (), names, flag="--allowed-host"
    )  # beside loopback ones, for a server without a key
    max_body_bytes: int = setting(4 * MIB, size(1024))  # largest request body
    max_header_bytes: int = setting(32 * 1024, size(4096))  # largest request head
    data_dir: Path | None = setting(None, path)  # stored responses, files and batches; the user's own otherwise
    max_file_bytes: int = setting(200 * MIB, size(1024))  # largest uploaded file
    batch_concurrency: int = setting(8, integer(1, 1024))  # requests of batches that run at the same time
    drain_timeout: float = setting(30.0, number(0, 86400))  # seconds that running requests get at shutdown
    latency_target_ms: float = setting(50.0, number(0, above=True))  # that /performance/latency reports against
    keepalive_seconds: float = setting(15.0, number(0, above=True))  # silence before a stream gets a comment line
    log_level: LogLevel = setting("info", choice(LogLevel))
    access_log: bool = setting(default=False, read=switch)  # log one line per HTTP request

    def check_ports(self) -> None:
        """Raises ConfigError if HTTP and gRPC would have the same port."""
        if self.grpc_port and self.grpc_port == self.port and self.uds is None:
            raise ConfigError(
                f"--port and --grpc-port are both {self.port}. Choose another for one of them, or 0 for a free one.",
                param="grpc_port",
            )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.uds is not None and self.grpc_port is None:
            return True
        return is_loopback(self.host)

    def check_exposure(self) -> None:
        """Raises ConfigError if other machines could use the model without a key."""
        if self.on_loopback or self.api_keys:
            return
        raise ConfigError(
            f"{self.host} can be reached from other machines, so an API key is needed: give one with --api-key or "
            "PENSTOCK_API_KEYS, or listen on 127.0.0.1.",
            param="host",
            code="api_key_needed",
        )


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine talking to itself."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
