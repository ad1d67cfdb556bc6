"""`penstock bench import`: what other tools measured and others published, as records."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (Typer reads annotations when it runs)
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.output import note, printable, say, say_json, table

if TYPE_CHECKING:
    from penstock.lab.imports.importing import Imported


def import_(
    files: Annotated[list[Path], typer.Argument(help="Results: JSON, JSONL or CSV; .gz too.", metavar="FILE...")],
    fmt: Annotated[str, typer.Option("--format", help="auto, vllm, guidellm, aiperf or csv.")] = "auto",
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", help="Of a CSV: HEADING=ttft.p50:ms, HEADING=model, ...", metavar="MAP"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to keep the records in.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="What was measured: the engine's name.")] = None,
    version: Annotated[str | None, typer.Option("--engine-version", help="The engine's version.")] = None,
    here: Annotated[bool, typer.Option("--here", help="It was measured on this machine.")] = False,
    hardware: Annotated[
        str | None, typer.Option("--hardware", help='The accelerator, such as "H100 SXM": its published peaks count.')
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", help="Accelerators that share the weights.  [default: 1]", min=1)
    ] = None,
    bandwidth: Annotated[str | None, typer.Option("--bandwidth", help="Of a device's memory: 3.35TB/s.")] = None,
    peak: Annotated[str | None, typer.Option("--peak", help="Of a device's arithmetic: 989TFLOP/s.")] = None,
    params: Annotated[str | None, typer.Option("--params", help="Parameters that a token meets: 8B.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of the weights: bfloat16, fp8, int4, ...")] = None,
    weights_bytes: Annotated[
        str | None, typer.Option("--weights-bytes", help="Read for a decoding step: 16GB.")
    ] = None,
    tokens_per_step: Annotated[
        float, typer.Option("--tokens-per-step", help="Of a stream, with speculation.", min=1.0)
    ] = 1.0,
    cached: Annotated[
        float, typer.Option("--cached", help="Share of the prompts' tokens found in a prefix cache.", min=0.0, max=1.0)
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read results of vllm bench serve, guidellm, AIPerf or a CSV, and hold them against physics.

    What can't be true is named, with file, line, figure and law, and is in no record. What can is kept.

    Exit codes: 0 all is possible; 21 something isn't; 2 or 4 a file that can't be read, or an option that can't be.

    Examples:

    \b
      penstock bench import result.json --out measured/
      penstock bench import benchmarks.json --hardware "H100 SXM" --params 8B --dtype bfloat16
      penstock bench import table.csv --columns "Speed=output_throughput:tokens/s,Users=concurrency"
    """
    import json
    import sys

    from penstock.core.errors import InvalidRequestError
    from penstock.core.lab_extra import require

    require("The laboratory", "numpy")
    from penstock.lab.imports.hardware import dtype_of, known_chip, parse_quantity
    from penstock.lab.imports.importing import FORMATS, Known, import_files

    if fmt not in FORMATS:
        raise InvalidRequestError(f"--format {fmt!r} is none of {', '.join(FORMATS)}.", param="format")
    if hardware is not None:
        known_chip(hardware)
    if dtype is not None:
        dtype_of(dtype)

    def quantity(text: str | None, param: str, *units: str) -> float | None:
        return None if text is None else parse_quantity(text, param, units)

    def tell(path: Path) -> None:
        if sys.stderr.isatty():
            note(f"Reading {path} ...")

    found = import_files(
        files, fmt=fmt, on_file=tell, columns=columns or (),
        known=Known(
            subject=subject, version=version, here=here, hardware=hardware, devices=devices,
            bandwidth=quantity(bandwidth, "bandwidth", "B/s"),
            peak=quantity(peak, "peak", "FLOP/s", "FLOPS", "OP/s", "OPS"), params=quantity(params, "params"),
            dtype=dtype, weights_bytes=quantity(weights_bytes, "weights-bytes", "B"),
            tokens_per_step=tokens_per_step, cached=cached,
        ),
    )  # fmt: skip
    if out is not None:
        found.save(out)
    if as_json:
        say_json({
            "records": [json.loads(record.to_json()) for _, record in found.records],
            "kept": [str(path) for path in found.paths],
            "impossible": [each.as_dict() for each in found.impossible],
            "unreadable": [error.message for error in found.unreadable], "notes": found.notes,
        })  # fmt: skip
    else:
        _show(found)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _show(found: Imported) -> None:
    if found.records:
        rows = [[name, record.subject.name, *(_cell(record, metric) for metric in _SHOWN)]
                for name, record in found.records]  # fmt: skip
        table(["RECORD", "SUBJECT", *(heading for heading, _ in _SHOWN.values())], rows)
    for text in found.notes:
        note(f"Note: {printable(text)}")
    for each in found.impossible:
        say(f"IMPOSSIBLE: {printable(str(each))}")
    for error in found.unreadable:
        note(f"penstock: {printable(error.message)}")
    if found.paths:
        note(f"Kept: {', '.join(map(str, found.paths))}")
    elif found.records:
        note("Nothing is kept; --out DIR writes the records.")


_SHOWN = {
    "ttft": ("TTFT MEAN", 1e3), "tpot": ("TPOT MEAN", 1e3), "e2e": ("E2E MEAN", 1e3),
    "output_throughput": ("OUTPUT TOKENS/S", 1.0), "request_throughput": ("REQUESTS/S", 1.0),
}  # fmt: skip


def _cell(record: object, name: str) -> str:
    from penstock.core.record import Record

    assert isinstance(record, Record)
    factor = _SHOWN[name][1]
    for metric in record.metrics:
        if metric.name in (name, f"{name}_mean"):
            return f"{metric.mean * factor:.4g}{' ms' if factor > 1 else ''}"
    return "-"
