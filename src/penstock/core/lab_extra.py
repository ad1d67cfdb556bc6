"""What is installed only with the extra `lab`."""

from __future__ import annotations

from importlib.util import find_spec

from penstock.core.errors import ConfigError


def require(what: str, *packages: str) -> None:
    """Raises ConfigError unless all these packages of the extra are installed; `what` needs them."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(f"{what} needs {' and '.join(missing)}: pip install 'penstock[lab]'.")
