"""`penstock chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.flags import CHAT_SAMPLING, ENGINE
from penstock.cli.options import takes
from penstock.cli.output import PullBar, note, note_loading, printable, say_json
from penstock.cli.serve import Model, Offline  # noqa: TC001 (Typer reads annotations when it runs)
from penstock.core.errors import PenstockError
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from penstock.engine.chat import Conversation, ReplyStats

COMMANDS = {
    "/help": "this list",
    "/reset": "forget what was said",
    "/system TEXT": "set the system prompt (alone: remove it) and start over",
    "/set NAME VALUE": "change a setting, for example /set temperature 0.2 (alone: show them)",
    "/stats": "what the last answer took",
    "/exit": "leave (so does Ctrl-D)",
}


@takes(sampling=CHAT_SAMPLING, engine=ENGINE)
def chat(
    model: Model = None,
    message: Annotated[
        list[str] | None,
        typer.Option(
            "--message", "-m", help="Say this, print the answer and leave; several are said in turn.", metavar="TEXT"
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.", metavar="TEXT")] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Talk to this server instead of loading a model, for example http://127.0.0.1:8000.", metavar="URL"
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="The server's API key.", envvar="PENSTOCK_API_KEY", metavar="KEY")
    ] = None,
    offline: Offline = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each answer as one JSON object, when all of it is there.")
    ] = False,
    *,
    sampling: dict[str, Any],
    engine: dict[str, Any],
) -> None:
    """Talk to a model in the terminal.

    Ctrl-C stops an answer; /help lists what else there is. Without a terminal, each line of the input is a message.

    Examples:

    \b
      penstock chat
      penstock chat -m "Name three rivers." --json
      penstock chat --url http://127.0.0.1:8000
    """
    import asyncio

    from penstock.engine.chat import Conversation
    from penstock.engine.params import params_from
    from penstock.engine.types import SamplingParams

    params = params_from(sampling, SamplingParams(temperature=0.7, max_tokens=None))
    with asyncio.Runner() as runner:
        talker = runner.run(_connect(url, api_key, model) if url else _load(model, offline, engine))
        try:
            conversation = Conversation(talker, params, system)
            interactive = message is None and sys.stdin.isatty() and not as_json
            if interactive:
                _Terminal(runner, conversation).talk()
            else:
                _say_all(runner, conversation, message if message is not None else _lines(), as_json=as_json)
        finally:
            runner.run(talker.close())


async def _connect(url: str, api_key: str | None, model: str | None) -> Any:
    from penstock.server.remote import RemoteTalker

    talker = RemoteTalker(url, api_key=api_key, model=model)
    await talker.start()
    return talker


async def _load(model: str | None, offline: bool, engine: dict[str, Any]) -> Any:
    import asyncio
    from functools import partial

    from penstock.engine.chat import EngineTalker
    from penstock.engine.client import EngineClient
    from penstock.engine.settings import EngineSettings
    from penstock.models.store import resolve

    settings = EngineSettings.load(model=model, **engine)
    with PullBar() as bar:
        find = partial(resolve, offline=offline or None, progress=bar)
        config = await asyncio.to_thread(settings.config, find)
    note_loading(settings.model)
    client = EngineClient(config)
    await client.start()
    return EngineTalker(client, settings.model)


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        if text := line.strip():
            yield text


def _say_all(runner: asyncio.Runner, conversation: Conversation, messages: Any, *, as_json: bool) -> None:
    for text in messages:
        if as_json:
            answer = runner.run(_whole(conversation, text))
            stats = conversation.last.as_dict() if conversation.last else {}
            say_json({"model": conversation.talker.model, "message": text, "answer": answer, **stats})
        else:
            runner.run(_stream(conversation, text))
            if sys.stderr.isatty() and conversation.last is not None:
                note(_took(conversation.last))


async def _whole(conversation: Conversation, text: str) -> str:
    return "".join([piece async for piece in conversation.say(text)])


async def _stream(conversation: Conversation, text: str) -> None:
    """Write the answer as it comes, and a line feed after it however it ends."""
    show = printable if sys.stdout.isatty() else str
    try:
        async for piece in conversation.say(text):
            sys.stdout.write(show(piece))
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


def _took(stats: ReplyStats) -> str:
    """One line about an answer."""
    parts = [f"{stats.completion_tokens} tokens"]
    if stats.tokens_per_second is not None:
        parts.append(f"{stats.tokens_per_second:.1f} tok/s")
    if stats.ttft is not None:
        parts.append(f"first after {stats.ttft * 1000:.0f} ms")
    parts.append(f"prompt {stats.prompt_tokens} tokens, {stats.cached_tokens} of them cached")
    return f"[{', '.join(parts)}]"


class _Terminal:
    """The conversation with a person at a terminal."""

    def __init__(self, runner: asyncio.Runner, conversation: Conversation) -> None:
        self._runner = runner
        self._conversation = conversation

    def talk(self) -> None:
        """Read, answer, repeat, until the person leaves."""
        import readline  # noqa: F401 - gives input() its history and line editing

        note(f"Talking to {self._conversation.talker.model}. /help lists the commands, Ctrl-D leaves.")
        while True:
            try:
                text = input("> ").strip()
            except EOFError:
                note("")
                return
            except KeyboardInterrupt:
                note("\n(Ctrl-D or /exit leaves)")
                continue
            if text == "/exit":
                return
            try:
                self._command(text) if text.startswith("/") else self._answer(text)
            except PenstockError as error:
                note(f"Error: {error.message}")

    def _answer(self, text: str) -> None:
        if not text:
            return
        try:
            self._runner.run(_stream(self._conversation, text))
        except KeyboardInterrupt:
            note("(stopped)")
        if self._conversation.last is not None:
            note(_took(self._conversation.last))

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        match name:
            case "/help":
                for usage, meaning in COMMANDS.items():
                    note(f"  {usage:<18}{meaning}")
            case "/reset":
                self._conversation.reset()
                note("Forgotten.")
            case "/system":
                self._conversation.system = rest or None
                self._conversation.reset()
                note("System prompt set." if rest else "System prompt removed.")
            case "/set":
                self._set(rest)
            case "/stats":
                last = self._conversation.last
                note(_took(last) if last else "Nothing was said yet.")
            case _:
                known = [usage.partition(" ")[0] for usage in COMMANDS]
                note(f"There is no command {name}.{did_you_mean(name, known)} /help lists them.")

    def _set(self, rest: str) -> None:
        name, _, value = rest.replace("=", " ", 1).partition(" ")
        if name:
            self._conversation.set(name, value.strip())
        params = self._conversation.params
        names = [name] if name else list(params.__struct_fields__)
        for each in names:
            note(f"  {each} = {getattr(params, each)}")
