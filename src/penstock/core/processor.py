"""The processor as it names itself. Imports next to nothing, since a start asks it."""

from __future__ import annotations

from pathlib import Path

from penstock.core.limits import read_text

_COMMAND_TIMEOUT_S = 10.0


def cpuinfo(root: Path = Path("/")) -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is none."""
    first = read_text(root / "proc/cpuinfo").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_model(root: Path = Path("/")) -> str:
    """The processor's name."""
    info = cpuinfo(root)
    if name := info.get("model name") or command_output("sysctl", "-n", "machdep.cpu.brand_string"):
        return name
    if part := info.get("CPU part"):  # ARM kernels give numbers, not names
        return f"ARM implementer {info.get('CPU implementer', '?')} part {part}"
    import platform

    return platform.processor()


def command_output(*argv: str) -> str:
    """What a system tool prints; empty if it is missing, fails or hangs."""
    import shutil
    import subprocess

    if shutil.which(argv[0]) is None:
        return ""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
