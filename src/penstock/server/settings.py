"""How the server listens and whom it lets in: the `[server]` table, `PENSTOCK_*` variables, flags."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from penstock.core.errors import ConfigError
from penstock.core.settings import Names, PenstockSettings, Size

MIB = 1024 * 1024


class ServerSettings(PenstockSettings):
    """Settings of `penstock serve`. `ServerSettings.load(**flags)` reads all sources."""

    section: ClassVar[str] = "server"

    host: str = Field("127.0.0.1", description="Address to listen on; other than loopback, an API key is demanded.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    uds: Path | None = Field(None, description="Unix socket to listen on instead of host and port.")
    api_keys: Names = Field((), repr=False, description="Keys that open the API, as `Authorization: Bearer KEY`.")
    public_probes: bool = Field(default=True, description="/health, /ready and /metrics answer without a key.")
    served_model_name: str | None = Field(None, description="Name of the model in the API; the file's own otherwise.")
    aliases: Names = Field((), description="More names that the model answers to.")
    cors_origins: Names = Field((), description="Origins whose pages may call the API; `*` for all.")
    allowed_hosts: Names = Field(
        (), description="Host names under which a server without a key may be reached, beside loopback ones."
    )
    max_body_bytes: Size = Field(4 * MIB, ge=1024, description="Largest request body.")
    max_header_bytes: Size = Field(32 * 1024, ge=4096, description="Largest request head.")
    drain_timeout: float = Field(30.0, ge=0, le=86400, description="Seconds that running requests get at shutdown.")
    latency_target_ms: float = Field(50.0, gt=0, description="Target that /performance/latency reports against.")
    keepalive_seconds: float = Field(15.0, gt=0, description="Silence after which a stream gets a comment line.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    access_log: bool = Field(default=False, description="Log one line per HTTP request.")

    @field_validator("api_keys")
    @classmethod
    def _keys_fit_a_header(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError("an API key must be visible ASCII characters without spaces")
        return keys

    @field_validator("served_model_name", "aliases")
    @classmethod
    def _names_are_not_empty(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        names = () if value is None else (value,) if isinstance(value, str) else value
        if any(not name.strip() or not name.isprintable() for name in names):
            raise ValueError("a model's name must be printable and not empty")
        return value

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.uds is not None or is_loopback(self.host)

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
