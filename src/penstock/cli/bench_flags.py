"""The options of load tests, as tables: one row a flag of `lab/bench/settings.py`."""

from __future__ import annotations

from penstock.cli.flags import Flag, Flags

ENDPOINT = Flags(
    "Endpoint",
    (
        Flag(
            "api", str, "What the server speaks.", "completions, else chat", ("auto", "chat", "completions", "generate")
        ),
        Flag("model", str, "The model to ask, where there are several.", "the first"),
        Flag("api_key", str, "The key to ask with.", "OPENAI_API_KEY", metavar="KEY"),
        Flag("ca", str, "Certificates in PEM to trust for https, beside the system's.", metavar="FILE"),
        Flag("header", list[str], "A header of every request; may be repeated.", metavar="'NAME: VALUE'"),
        Flag("body", str, "Fields merged into every request's body.", metavar="JSON"),
        Flag("ignore_eos", bool, "Have answers be as long as asked.", "where the server can"),
        Flag("timeout", float, "Seconds until a request has failed.", "600"),
        Flag("keep_alive", bool, "Use connections again.", "yes"),
    ),
)
WORKLOAD = Flags(
    "Workload",
    (
        Flag("workload", str, "What is asked; penstock bench workloads lists them.", "synthetic"),
        Flag("input_tokens", str, "Length of prompts.", "128", metavar="LENGTHS"),
        Flag("output_tokens", str, "Length of answers.", "64", metavar="LENGTHS"),
        Flag("tokenizer", str, "A tokenizer.json, GGUF or model name, for prompts of exact lengths.", metavar="PATH"),
        Flag("seed", int, "Of all that is random.", "0"),
    ),
)
LOAD = Flags(
    "Load",
    (
        Flag("concurrency", int, "Closed loop: so many requests on their way at all times.", "4"),
        Flag("ramp_up", float, "Closed loop: seconds over which the first of them start.", "all at once"),
        Flag("rate", float, "Open loop: requests a second, answered or not."),
        Flag("arrivals", str, "How requests of a rate come.", "poisson", ("poisson", "constant", "gamma")),
        Flag("burstiness", float, "Squared coefficient of variation of gamma arrivals.", metavar="B"),
        Flag("ramp", str, "Open loop: a rate that grows from one to the other.", metavar="FROM:TO"),
        Flag(
            "steps", str, "Open loop: rates and ramps one after the other.", metavar="RATE:SECONDS,FROM-TO:SECONDS,..."
        ),
        Flag("requests", int, "Requests of each repeat, warm-up included."),
        Flag("duration", float, "Seconds for which each repeat sends.", "10"),
        Flag("warm_up", int, "First requests of each repeat, which don't count.", "the first round, or a tenth"),
        Flag("repeats", int, "How often it is measured.", "3, or 1 of a trace"),
    ),
)
SPREAD = Flags(
    "Several workers",
    (
        Flag("workers", int, "Offer it by so many workers on Ray, a processor each.", "this process alone"),
        Flag(
            "ray", str, "The cluster to take them from: HOST:PORT, or auto.", "one of this machine", metavar="ADDRESS"
        ),
        Flag("raw", bool, "Fetch every request's columns from them.", "if they are 256 MiB at most"),
    ),
)
JUDGEMENT = Flags(
    "Judgement",
    (
        Flag("slo", str, "What an answer must meet to count as goodput.", metavar="ttft:500ms,tpot:50ms"),
        Flag("metrics", str, "The server's Prometheus page, or off.", "/metrics of the server", metavar="URL"),
        Flag("dcgm", str, "The page of NVIDIA's DCGM exporter.", metavar="URL"),
    ),
)
