"""Options that several commands share, as tables: one row a flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Flag:
    """One option.

    Args:
        name: the setting it sets; the option's name too, with dashes, unless `option` says otherwise.
        kind: int, float, str, bool, or list[str] for a repeatable one.
        help: what it does, for someone who never saw it.
        default: the default as the help shows it; the value itself belongs to the settings.
        choices: the words it accepts.
    """

    name: str
    kind: Any
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()
    option: str = ""
    metavar: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called on the command line; the second name of a switch turns it off."""
        option = self.option or "--" + self.name.replace("_", "-")
        return (option, f"--no-{option[2:]}") if self.kind is bool else (option,)

    @property
    def declaration(self) -> str:
        """The names as Typer wants them."""
        return "/".join(self.names)


@dataclass(frozen=True, slots=True)
class Flags:
    """A table of flags and the heading it has in the help."""

    panel: str
    rows: tuple[Flag, ...]


ENGINE = Flags(
    "Engine",
    (
        Flag("max_model_len", int, "Longest prompt and answer together, in tokens.", "the model's context"),
        Flag("max_num_seqs", int, "Requests that run at the same time.", "256"),
        Flag("max_num_batched_tokens", int, "Tokens computed in one step.", "2048"),
        Flag(
            "max_prefill_tokens_while_decoding",
            int,
            "Prompt tokens a step may take while other requests are being answered: more brings a long prompt's "
            "first token sooner, fewer keeps the others smoother.",
            "as the device can",
        ),
        Flag("max_waiting", int, "Requests that may queue before new ones are refused.", "4096"),
        Flag("max_queue_delay_ms", float, "Longest wait of a text for others that an encoder computes with it.", "0.0"),
        Flag("block_size", int, "Tokens per block of the KV cache.", "16"),
        Flag("kv_memory", str, "Memory for the KV cache on a CPU, such as 2GiB.", "a quarter of what is free",
             metavar="SIZE"),
        Flag("memory", str, "Memory for the weights and the KV cache together, such as 4GiB.", "no limit of its own",
             metavar="SIZE"),
        Flag("gpu_memory_utilization", float, "Share of a GPU's memory to use.", "0.9"),
        Flag("enable_prefix_caching", bool, "Compute what prompts have in common at their beginning once.", "on"),
        Flag("speculation", str, "Guess the next tokens where text repeats itself, and check several in one step.",
             "ngram where it changes no text", ("off", "ngram", "draft")),
        Flag("draft_model", str, "A smaller model of the same vocabulary that guesses, named as the model is.", "none",
             metavar="MODEL"),
        Flag("runner", str, "What computes: our own code on CPUs, or PyTorch.", "auto", ("auto", "native", "torch")),
        Flag("device", str, "Where the model runs.", "auto", ("auto", "cpu", "cuda", "mps")),
        Flag("dtype", str, "Number format; auto: the fastest.", "auto", ("auto", "float32", "bfloat16", "float16")),
        Flag("kv_cache_dtype", str, "Number format of the KV cache; auto: what suits --dtype.", "auto",
             ("auto", "float32", "float16", "bfloat16", "int8")),
        Flag("quantization", str, "Round the weights of a model stored in floats as it is loaded.", "as stored",
             ("int8", "int4")),
        Flag("threads", int, "CPU threads of the engine.", "one for each core"),
        Flag("reserve_cores", int, "Cores left to the server and to others.", "0"),
        Flag("pin_threads", str, "Keep each thread on a CPU of its own; auto: where it can do no harm.", "auto",
             ("auto", "on", "off")),
        Flag("runner_cache", bool, "Keep packed weights and measured choices on disk for the next start.", "on"),
        Flag("allow_unverified", bool, "Run on hardware on which this version was never tested.", "off"),
    ),
)  # fmt: skip

# Who talks to a server chooses an adapter by the model's name.
SERVED_ENGINE = Flags(
    ENGINE.panel,
    (
        *ENGINE.rows,
        Flag("lora_modules", list[str], "An adapter's name in the API and its directory; may be given several times.",
             option="--lora", metavar="NAME=PATH"),
        Flag("max_loras", int, "Adapters in memory at a time.", "8"),
        Flag("max_lora_rank", int, "Greatest rank of an adapter.", "64"),
    ),
)  # fmt: skip

SERVER = Flags(
    "Server",
    (
        Flag("host", str, "Address to listen on; one that other machines can reach needs an API key.", "127.0.0.1"),
        Flag("port", int, "TCP port; 0 takes a free one.", "8000"),
        Flag("grpc_port", int, "TCP port for Triton's protocol over gRPC (Triton's own is 8001); 0 takes a free one.",
             "off"),
        Flag("uds", str, "Unix socket to listen on instead of host and port.", metavar="PATH"),
        Flag("api_keys", list[str], "A key that clients must send; may be given several times. "
             "PENSTOCK_API_KEYS keeps it out of the process list.", option="--api-key", metavar="KEY"),
        Flag("public_probes", bool, "Answer /health, /ready and /metrics without a key.", "on"),
        Flag("served_model_name", str, "The model's name in the API.", "as given", metavar="NAME"),
        Flag("aliases", list[str], "Another name the model answers to, such as gpt-3.5-turbo; may be given several "
             "times.", option="--alias", metavar="NAME"),
        Flag("tool_format", str, "How the model writes tool calls; auto: as its chat template tells.", "auto",
             ("auto", "hermes", "llama3", "mistral", "generic")),
        Flag("model_control", bool, "Let clients load and unload the declared models, through Triton's repository API.",
             "off"),
        Flag("idle_unload", float, "Seconds without a request after which a model leaves memory until the next one.",
             "never", metavar="SECONDS"),
        Flag("lora_dir", str, "A directory below which clients may load adapters while the server runs.", "none",
             metavar="PATH"),
        Flag("cors_origins", list[str], "An origin whose web pages may call the API (* for all); may be given several "
             "times.", option="--cors-origin", metavar="ORIGIN"),
        Flag("allowed_hosts", list[str], "A host name under which a server without a key may be reached, beside "
             "loopback ones; may be given several times.", option="--allowed-host", metavar="NAME"),
        Flag("max_body_bytes", str, "Largest request body.", "4MiB", metavar="SIZE"),
        Flag("max_header_bytes", str, "Largest request head.", "32KiB", metavar="SIZE"),
        Flag("data_dir", str, "Where stored responses, files and batches are kept.", "the user's own", metavar="PATH"),
        Flag("max_file_bytes", str, "Largest uploaded file.", "200MiB", metavar="SIZE"),
        Flag("batch_concurrency", int, "Requests of batches that run at the same time, behind all others.", "8"),
        Flag("drain_timeout", float, "Seconds that running requests get at shutdown.", "30.0"),
        Flag("latency_target_ms", float, "Target that /performance/latency reports against, in milliseconds.", "50.0"),
        Flag("keepalive_seconds", float, "Silence after which a stream gets a comment line.", "15.0"),
        Flag("log_level", str, "How much to log.", "info", ("debug", "info", "warning", "error")),
        Flag("access_log", bool, "Log a line for each HTTP request.", "off"),
    ),
)  # fmt: skip

_SAMPLING = (
    Flag("top_p", float, "Choose among the likeliest tokens that together have this probability.", "1.0"),
    Flag("top_k", int, "Choose among this many of the likeliest tokens; 0 is all.", "0"),
    Flag("min_p", float, "Leave out tokens less likely than this share of the likeliest.", "0.0"),
    Flag("repetition_penalty", float, "Above 1: make tokens that were there already less likely.", "1.0"),
    Flag("frequency_penalty", float, "Make tokens less likely each time they were generated.", "0.0"),
    Flag("presence_penalty", float, "Make tokens less likely once they were generated.", "0.0"),
    Flag("seed", int, "The same seed gives the same text.", "random"),
    Flag("stop", list[str], "End an answer before this text; may be given several times.", metavar="TEXT"),
)

CHAT_SAMPLING = Flags(
    "Sampling",
    (
        Flag("temperature", float, "0 always takes the likeliest token; higher is livelier.", "0.7"),
        Flag("max_tokens", int, "Longest answer, in tokens.", "what the context leaves"),
        *_SAMPLING,
    ),
)

GENERATE_SAMPLING = Flags(
    "Sampling",
    (
        Flag("temperature", float, "0 always takes the likeliest token; higher is livelier.", "0"),
        Flag("max_tokens", int, "Longest answer, in tokens.", "256"),
        *_SAMPLING,
        Flag("n", int, "Answers to each prompt.", "1"),
        Flag("min_tokens", int, "Shortest answer, in tokens.", "0"),
        Flag("ignore_eos", bool, "Go on when the model says it is done.", "off"),
        Flag("logprobs", int, "Log probabilities of each token, with this many alternatives.", "none"),
    ),
)
