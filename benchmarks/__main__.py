"""`python -m benchmarks`: see README.md."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import msgspec

from benchmarks import embeddings, load_report, prefill, quality, report, roofline, sweeps
from benchmarks.errors import BenchmarkError
from benchmarks.keep import keep
from benchmarks.peers import DEFAULT_PEERS, PEERS, Place
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.base import Setting
from benchmarks.serving import Plan, measure, write_records
from benchmarks.setup import install, prepare_model
from benchmarks.workload import OUTPUT_TOKENS, Prompts
from penstock.core.errors import PenstockError
from penstock.core.machine import fingerprint, read_bandwidth
from penstock.core.paths import cache_dir
from penstock.lab.bench.engines.process import pin
from penstock.models.store import DEFAULT_MODEL, resolve

_HERE = Path(__file__).parent
_SEED = 20_260_101


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that peers are stopped on the way out
    try:
        arguments.run(arguments)
    except (BenchmarkError, PenstockError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


def _install(arguments: argparse.Namespace) -> None:
    place = _place(arguments)
    install(place, arguments.peers)
    prepare_model(place, arguments.gguf)


def _serving(arguments: argparse.Namespace) -> None:
    place = _place(arguments)
    install(place, arguments.peers)
    model = prepare_model(place, arguments.gguf)
    pin(arguments.cores)
    bandwidth = read_bandwidth()
    prompts = Prompts(model.tokenizer_json, arguments.seed)
    plan = Plan(tuple(arguments.concurrency), arguments.rounds, arguments.repeats, arguments.output_tokens)
    series = measure([PEERS[name] for name in arguments.peers], plan, place, model, prompts)
    # The better of two measurements: a disturbance can only lower one.
    machine = msgspec.structs.replace(fingerprint(), read_bandwidth=max(bandwidth, read_bandwidth()))
    write_records(series, plan, model, prompts, machine, arguments.out)
    report.write(arguments.out)


def _scenario(arguments: argparse.Namespace) -> None:
    place = _place(arguments)
    install(place, ())
    model = prepare_model(place, arguments.gguf)
    pin(arguments.cores)
    setting = Setting(place, model, Prompts(model.tokenizer_json, arguments.seed), fingerprint(), arguments.repeats)
    for name in arguments.names or SCENARIOS:
        print(f"{name}:", flush=True)
        for record in SCENARIOS[name](setting):
            dtype = record.subject.configuration.get("dtype")
            keep(record, arguments.out / f"scenario-{name}{f'-{dtype}' if dtype else ''}.json")
    report.write(arguments.out)


def _roofline(arguments: argparse.Namespace) -> None:
    place = _place(arguments)
    install(place, ())
    model = prepare_model(place, arguments.gguf)
    pin(arguments.cores)
    for record in roofline.measure(model.gguf, arguments.threads, arguments.streams, arguments.contexts):
        threads = record.subject.configuration["threads"]
        keep(record, arguments.out / f"{roofline.NAME}-{threads}-threads.json")
    report.write(arguments.out)


def _prefill(arguments: argparse.Namespace) -> None:
    place = _place(arguments)
    install(place, list(prefill.PATHS.values()))
    model = prepare_model(place, arguments.gguf)
    pin(arguments.cores)
    prompts = Prompts(model.tokenizer_json, arguments.seed)
    for name, record in prefill.measure(place, model, prompts, arguments.lengths, arguments.repeats):
        keep(record, arguments.out / f"{name}.json")
    report.write(arguments.out)


def _quality(arguments: argparse.Namespace) -> None:
    gguf = (arguments.gguf or resolve(DEFAULT_MODEL)).absolute()
    text = quality.Text.read(arguments.text, gguf, arguments.windows)
    for record in quality.measure(gguf, text, arguments.cores):
        work = record.workload.parameters
        keep(record, arguments.out / f"{quality.NAME}-{work['products']}-kv-{work['kv']}.json")
    report.write(arguments.out)


def _embeddings(arguments: argparse.Namespace) -> None:
    pin(arguments.cores)
    for record in embeddings.measure(_place(arguments).logs, arguments.repeats, arguments.seed):
        keep(record, arguments.out / f"{embeddings.NAME}-{record.workload.parameters['batch']}.json")
    report.write(arguments.out)


def _load_report(arguments: argparse.Namespace) -> None:
    record = load_report.measure(arguments.requests, arguments.pieces, arguments.repeats, arguments.seed)
    keep(record, arguments.out / f"{load_report.NAME}.json")
    report.write(arguments.out)


def _sweeps(arguments: argparse.Namespace) -> None:
    record = sweeps.measure(arguments.services, arguments.axes, arguments.sweeps, arguments.budget)
    keep(record, arguments.out / f"{sweeps.NAME}.json")
    report.write(arguments.out)


def _report(arguments: argparse.Namespace) -> None:
    report.write(arguments.out)


def _place(arguments: argparse.Namespace) -> Place:
    return Place(arguments.venvs.absolute(), arguments.venvs.absolute() / "logs", arguments.cores)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--venvs", type=Path, default=cache_dir() / "peers", help="where the peers are installed")
    common.add_argument("--gguf", type=Path, help="the model; by default Penstock's own")
    common.add_argument("--out", type=Path, default=_HERE / "records", help="where the records go")
    common.add_argument("--cores", type=int, default=2, help="processors that client and server share")
    common.add_argument("--seed", type=int, default=_SEED)

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Penstock and its peers.")
    commands = parser.add_subparsers(required=True)

    install_command = commands.add_parser("install", parents=[common], help="make the peers' environments")
    install_command.add_argument("--peers", nargs="+", choices=PEERS, default=DEFAULT_PEERS)
    install_command.set_defaults(run=_install)

    serving = commands.add_parser("serving", parents=[common], help="peers beside each other under the same load")
    serving.add_argument("--peers", nargs="+", choices=PEERS, default=DEFAULT_PEERS)
    serving.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32], help="requests at once, up to 64")
    serving.add_argument("--rounds", type=int, default=3, help="how often each peer is started")
    serving.add_argument("--repeats", type=int, default=3, help="of each point in a round, if it is quick")
    serving.add_argument("--output-tokens", type=int, default=OUTPUT_TOKENS)
    serving.set_defaults(run=_serving)

    scenario = commands.add_parser("scenario", parents=[common], help="Penstock alone")
    scenario.add_argument("names", nargs="*", choices=[*SCENARIOS, []], help="all of them unless named")
    scenario.add_argument("--repeats", type=int, default=5)
    scenario.set_defaults(run=_scenario)

    roofline_command = commands.add_parser(
        "roofline", parents=[common], help="decode steps beside what memory and arithmetic allow"
    )
    roofline_command.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    roofline_command.add_argument("--streams", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128])
    roofline_command.add_argument("--contexts", nargs="+", type=int, default=[128, 1024, 4096, 8176])
    roofline_command.set_defaults(run=_roofline)

    prefill_command = commands.add_parser(
        "prefill", parents=[common], help="prompts by themselves beside llama.cpp, with AVX2 alone too"
    )
    prefill_command.add_argument("--lengths", nargs="+", type=int, default=[128, 512, 2048], help="tokens of a prompt")
    prefill_command.add_argument("--repeats", type=int, default=7)
    prefill_command.set_defaults(run=_prefill)

    quality_command = commands.add_parser(
        "quality", parents=[common], help="what int8 products and smaller keys and values change on a text"
    )
    quality_command.add_argument("--text", type=Path, required=True, help="a file of plain text, in UTF-8")
    quality_command.add_argument("--windows", type=int, default=8, help=f"of {quality.TOKENS} tokens each")
    quality_command.set_defaults(run=_quality)

    embeddings_command = commands.add_parser(
        "embeddings", parents=[common], help="an encoder's vectors beside sentence-transformers"
    )
    embeddings_command.add_argument("--repeats", type=int, default=20, help="calls of each size")
    embeddings_command.set_defaults(run=_embeddings)

    load_report_command = commands.add_parser(
        "load-report", parents=[common], help="what reporting on a million requests costs"
    )
    load_report_command.add_argument("--requests", type=int, default=1_000_000)
    load_report_command.add_argument("--pieces", type=int, default=100, help="of each answer")
    load_report_command.add_argument("--repeats", type=int, default=5)
    load_report_command.set_defaults(run=_load_report)

    sweeps_command = commands.add_parser(
        "sweeps", parents=[common], help="how near sweeps come to the capacity of a stub over HTTP"
    )
    sweeps_command.add_argument("--services", nargs="+", choices=sweeps.SERVICES, default=list(sweeps.SERVICES))
    sweeps_command.add_argument("--axes", nargs="+", choices=sweeps.AXES, default=list(sweeps.AXES))
    sweeps_command.add_argument("--sweeps", type=int, default=3, help="of each service and axis")
    sweeps_command.add_argument("--budget", type=float, default=150.0, help="seconds of a sweep")
    sweeps_command.set_defaults(run=_sweeps)

    report_command = commands.add_parser("report", parents=[common], help="table and plot from the records")
    report_command.set_defaults(run=_report)
    return parser


if __name__ == "__main__":
    sys.exit(main())
