"""`penstock generate`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (Typer reads annotations when it runs)
from typing import Annotated, Any

import typer

from penstock.cli.flags import ENGINE, GENERATE_SAMPLING
from penstock.cli.options import complete_models, takes
from penstock.cli.output import CountBar, PullBar, note, note_loading, say, say_json
from penstock.cli.serve import Offline  # noqa: TC001 (Typer reads annotations when it runs)

Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="A short name, a path, or hf:owner/name[:QUANTIZATION]. [default: smollm2]",
        autocompletion=complete_models,
    ),
]  # fmt: skip


@takes(sampling=GENERATE_SAMPLING, engine=ENGINE)
def generate(
    prompts: Annotated[
        Path, typer.Argument(help="A .jsonl file with a prompt or messages in each line, or .txt with a prompt a line.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL file to write, or to go on with.")],
    model: Model = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put each prompt to the model as a user's message, by its chat template.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the output file holds.")] = False,
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    *,
    sampling: dict[str, Any],
    engine: dict[str, Any],
) -> None:
    """Answer a file of prompts without a server.

    Each line of the input is {"prompt": "..."} or {"messages": ...}, with an "id" and any sampling parameter of its
    own if you like. Each line of the output holds the index and id, the text, why it ended and the tokens it took,
    in the order the answers are finished. Stopped half-way, the same command goes on where it stopped.

    Examples:

    \b
      penstock generate prompts.jsonl -o answers.jsonl --max-tokens 64
      penstock generate questions.txt -o answers.jsonl --chat --model ./model.gguf
    """
    import asyncio
    from functools import partial

    from penstock.engine.offline import Job, generate_file
    from penstock.engine.params import params_from
    from penstock.engine.settings import EngineSettings
    from penstock.engine.types import SamplingParams
    from penstock.models.store import resolve

    settings = EngineSettings.load(model=model, **engine)
    params = params_from(sampling, SamplingParams(temperature=0.0, max_tokens=256))
    job = Job(prompts, output, params, chat=chat, overwrite=overwrite)

    async def start() -> Any:
        from penstock.engine.client import EngineClient

        with PullBar() as pull:
            find = partial(resolve, offline=offline or None, progress=pull)
            config = await asyncio.to_thread(settings.config, find)
        note_loading(settings.model)
        client = EngineClient(config)
        await client.start()
        return client

    computed = " ".join(filter(None, (settings.model, settings.dtype, settings.quantization)))
    try:
        with CountBar("generating") as bar:
            summary = asyncio.run(generate_file(job, start, model=computed, report=bar))
    except KeyboardInterrupt:
        note(f"Stopped. What is finished is in {output}; run the same command again to go on.")
        raise
    if as_json:
        say_json(summary.as_dict())
    else:
        say(summary.sentence(output))
    if summary.failed:
        raise typer.Exit(1)
