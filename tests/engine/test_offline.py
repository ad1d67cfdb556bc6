"""Offline generation: every prompt answered once, whatever interrupts it."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import ConfigError, EngineDeadError, InvalidRequestError, NotFoundError, PenstockError
from penstock.engine.offline import Job, Summary, generate_file
from penstock.engine.offline.answers import AnswerFile
from penstock.engine.types import SamplingParams
from support.eventually import eventually
from support.fake_engine import FakeEngine, write_model

if TYPE_CHECKING:
    from pathlib import Path

PARAMS = SamplingParams(temperature=0.0, max_tokens=20)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return write_model(tmp_path / "model")


def write_jsonl(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answers(path: Path) -> dict[int, dict[str, Any]]:
    """By index; fails if one stands there twice."""
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert len({line["index"] for line in lines}) == len(lines)
    return {line["index"]: line for line in lines}


def run(engine: FakeEngine, job: Job, model: str = "echo", **options: Any) -> Summary:
    async def start() -> FakeEngine:
        return engine

    return asyncio.run(generate_file(job, start, model=model, **options))


def no_engine(job: Job, model: str = "echo") -> Summary:
    """As a run that must not need one."""

    async def start() -> Any:
        raise AssertionError("the engine was started")

    return asyncio.run(generate_file(job, start, model=model))


def interrupt_after(count: int, directory: Path, job: Job) -> None:
    """Run until `count` answers are written, then stop as Ctrl-C does."""

    async def work() -> None:
        engine = FakeEngine(directory, held=True, max_num_seqs=2)

        async def start() -> FakeEngine:
            return engine

        task = asyncio.create_task(generate_file(job, start, model="echo"))
        while not (job.output.exists() and len(job.output.read_bytes().splitlines()) >= count):
            if engine.running:
                engine.release(1)
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert engine.state == "stopped"

    asyncio.run(work())


def test_each_line_gets_its_answer_with_its_id_and_counts(directory: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(
        tmp_path / "p.jsonl",
        {"prompt": "alpha", "id": "a"},
        {"messages": [{"role": "user", "content": "hi"}], "id": 7, "max_tokens": 3},
        {"prompt": [70, 71, 72]},
    )
    reports: list[tuple[int, int, int]] = []
    job = Job(prompts, tmp_path / "out.jsonl", PARAMS)
    summary = run(FakeEngine(directory), job, report=lambda *report: reports.append(report))
    found = answers(job.output)
    assert (found[0]["id"], found[0]["text"], found[0]["finish_reason"]) == ("a", "alpha", "stop")
    assert found[0]["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "cached_tokens": 0}
    assert (found[1]["id"], found[1]["usage"]["completion_tokens"]) == (7, 3)
    assert found[1]["usage"]["prompt_tokens"] > 2
    assert "id" not in found[2]
    assert (summary.prompts, summary.resumed, summary.failed) == (3, 0, 0)
    assert (
        summary.generated_tokens == reports[-1][2] == sum(each["usage"]["completion_tokens"] for each in found.values())
    )
    assert reports[-1][:2] == (3, 3)


def test_a_text_file_is_a_prompt_a_line_and_chat_makes_them_messages(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\n  \ntwo\u2028still two\r\nthree")
    plain = Job(tmp_path / "p.txt", tmp_path / "plain.jsonl", PARAMS)
    run(FakeEngine(directory), plain)
    assert [each["text"] for _, each in sorted(answers(plain.output).items())] == ["one", "two\u2028still two", "three"]
    chat = Job(tmp_path / "p.txt", tmp_path / "chat.jsonl", PARAMS, chat=True)
    run(FakeEngine(directory), chat)
    assert answers(chat.output)[0]["text"].startswith("user\none")


def test_several_choices_and_logprobs_are_kept(directory: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", {"prompt": "ab", "n": 2, "logprobs": 1})
    job = Job(prompts, tmp_path / "out.jsonl", PARAMS)
    run(FakeEngine(directory), job)
    answer = answers(job.output)[0]
    assert len(answer["choices"]) == 2
    assert answer["text"] == answer["choices"][0]["text"]
    assert len(answer["logprobs"]) == 3
    assert answer["usage"]["completion_tokens"] == 6


def test_an_interrupted_run_goes_on_where_it_stopped(directory: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", *({"prompt": f"prompt {i}"} for i in range(20)))
    job = Job(prompts, tmp_path / "out.jsonl", PARAMS)
    interrupt_after(5, directory, job)
    before = answers(job.output)
    assert 5 <= len(before) < 20
    engine = FakeEngine(directory)
    summary = run(engine, job)
    assert summary.resumed == len(before)
    assert len(engine.added) == 20 - len(before)
    found = answers(job.output)
    assert {index: each["text"] for index, each in found.items()} == {i: f"prompt {i}" for i in range(20)}
    assert no_engine(job) == Summary(20, 20, 0, 0, 0.0)


@pytest.mark.parametrize("torn", ['{"index":3,"te', '{"i', '{"index":3,"text":"x","run":"0123"}'])
def test_a_torn_last_line_is_cut_off_and_done_again(directory: Path, tmp_path: Path, torn: str) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", *({"prompt": f"prompt {i}"} for i in range(4)))
    job = Job(prompts, tmp_path / "out.jsonl", PARAMS)
    run(FakeEngine(directory), job)
    lines = job.output.read_text().splitlines(keepends=True)
    job.output.write_text("".join(lines[:2]) + torn)
    assert run(FakeEngine(directory), job).resumed == 2
    assert set(answers(job.output)) == {0, 1, 2, 3}


def test_another_input_parameter_or_model_is_refused_unless_overwritten(directory: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", {"prompt": "one"})
    job = Job(prompts, tmp_path / "out.jsonl", PARAMS)
    run(FakeEngine(directory), job)
    kept = job.output.read_bytes()
    for other in (
        Job(prompts, job.output, SamplingParams(temperature=0.0, max_tokens=21)),
        Job(prompts, job.output, PARAMS, chat=True),
        Job(write_jsonl(tmp_path / "q.jsonl", {"prompt": "two"}), job.output, PARAMS),
    ):
        with pytest.raises(InvalidRequestError, match="--overwrite"):
            no_engine(other)
    with pytest.raises(InvalidRequestError, match="--overwrite"):
        no_engine(job, model="another")
    assert job.output.read_bytes() == kept
    fresh = Job(tmp_path / "q.jsonl", job.output, PARAMS, overwrite=True)
    assert run(FakeEngine(directory), fresh).resumed == 0
    assert answers(job.output)[0]["text"] == "two"


@pytest.mark.parametrize("content", ["my notes\n", "my notes", '{"other": 1}\n', '[1]\n{"index":0,', "\x00\xff\n"])
def test_a_file_that_is_not_a_runs_output_is_never_touched(directory: Path, tmp_path: Path, content: str) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", {"prompt": "one"})
    (tmp_path / "notes").write_text(content)
    with pytest.raises(InvalidRequestError, match="can't be continued"):
        no_engine(Job(prompts, tmp_path / "notes", PARAMS))
    assert (tmp_path / "notes").read_text() == content


def test_the_prompts_are_never_overwritten(tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", {"prompt": "one"})
    with pytest.raises(InvalidRequestError, match="replace the prompts"):
        no_engine(Job(prompts, tmp_path / "." / "p.jsonl", PARAMS, overwrite=True))
    assert prompts.read_text() == '{"prompt": "one"}\n'


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"prompt": "x"', "not valid JSON"),
        ("[1]", "expected an object"),
        ("{}", 'needs either "prompt" or "messages"'),
        ('{"prompt": "x", "messages": [{"role": "user"}]}', 'needs either "prompt" or "messages"'),
        ('{"prompt": ""}', "not empty"),
        ('{"prompt": [1, -2]}', "token ids"),
        ('{"prompt": [true]}', "token ids"),
        ('{"messages": []}', "not empty"),
        ('{"messages": ["hi"]}', "objects with a"),
        ('{"prompt": "x", "temprature": 1}', "Did you mean 'temperature'"),
        ('{"prompt": "x", "temperature": -1}', "temperature must be from 0 to 2"),
        ('{"prompt": "x", "max_tokens": "9"}', "max_tokens is wrong: Expected `int | null`, got `str`"),
        ('{"prompt": "x", "id": [1]}', '"id" must be'),
        ('{"prompt": "x", "priority": 1.5}', '"priority" must be'),
        ('{"prompt": "\\ud800"}', "not valid JSON"),
    ],
)
def test_a_bad_line_is_named_by_its_number_before_anything_runs(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "p.jsonl").write_text(f'{{"prompt": "fine"}}\n\n{line}\n')
    with pytest.raises(InvalidRequestError) as refused:
        no_engine(Job(tmp_path / "p.jsonl", tmp_path / "out.jsonl", PARAMS))
    assert f"{tmp_path / 'p.jsonl'}, line 3: " in refused.value.message
    assert sentence in refused.value.message
    assert not (tmp_path / "out.jsonl").exists()


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path: Path) -> None:
    for name, content in (("p.txt", b"fine\n\xff\xfe\n"), ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidRequestError, match=", line 2: not valid"):
            no_engine(Job(tmp_path / name, tmp_path / "out.jsonl", PARAMS))


def test_an_input_that_is_missing_empty_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        no_engine(Job(tmp_path / "none.jsonl", tmp_path / "out.jsonl", PARAMS))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InvalidRequestError, match="no prompts"):
        no_engine(Job(tmp_path / "empty.jsonl", tmp_path / "out.jsonl", PARAMS))
    (tmp_path / "p.csv").write_text("a,b\n")
    with pytest.raises(InvalidRequestError, match=r"\.jsonl.*\.txt"):
        no_engine(Job(tmp_path / "p.csv", tmp_path / "out.jsonl", PARAMS))


def test_a_prompt_that_the_engine_refuses_fails_alone_and_is_not_tried_again(directory: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", {"prompt": "ok"}, {"prompt": "x" * 600, "id": "l"}, {"prompt": [999]})
    job = Job(prompts, tmp_path / "out.jsonl", PARAMS)
    assert run(FakeEngine(directory), job).failed == 2
    found = answers(job.output)
    assert found[0]["text"] == "ok"
    assert found[1]["id"] == "l"
    assert "600 tokens" in found[1]["error"]["message"]
    assert (found[1]["error"]["code"], found[1]["error"]["line"]) == ("context_length_exceeded", 2)
    assert found[2]["error"]["code"] == "invalid_token_id"
    assert no_engine(job).failed == 2


def test_prompts_of_a_core_that_dies_are_tried_again_when_it_is_back(directory: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", {"prompt": "one"}, {"prompt": "two"})
    job = Job(prompts, tmp_path / "out.jsonl", PARAMS)

    async def work() -> Summary:
        engine = FakeEngine(directory, held=True)

        async def start() -> FakeEngine:
            return engine

        task = asyncio.create_task(generate_file(job, start, model="echo"))
        await eventually(lambda: engine.running == 2, "both run")
        engine.die()
        await asyncio.sleep(0)
        engine.state = "ready"
        await eventually(lambda: len(engine.added) == 4, "both run again")
        engine.release(100)
        return await task

    assert asyncio.run(work()).failed == 0
    assert {each["text"] for each in answers(job.output).values()} == {"one", "two"}


def test_a_prompt_that_kills_the_core_each_time_is_given_up(directory: Path, tmp_path: Path) -> None:
    class Cursed(FakeEngine):
        def generate(self, prompt_token_ids: list[int], *args: Any, **kwargs: Any) -> Any:
            if prompt_token_ids[0] == 70:
                raise EngineDeadError("The engine core died.")
            return super().generate(prompt_token_ids, *args, **kwargs)

    prompts = write_jsonl(tmp_path / "p.jsonl", {"prompt": [70]}, {"prompt": "fine"})
    job = Job(prompts, tmp_path / "out.jsonl", PARAMS)
    assert run(Cursed(directory), job).failed == 1
    assert answers(job.output)[0]["error"]["type"] == EngineDeadError.type
    assert answers(job.output)[1]["text"] == "fine"


def test_no_more_prompts_are_in_flight_than_the_engine_runs(directory: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", *({"prompt": f"prompt {i}"} for i in range(40)))
    engine = FakeEngine(directory, max_num_seqs=3)
    seen: list[int] = []
    job = Job(prompts, tmp_path / "out.jsonl", PARAMS)
    run(engine, job, report=lambda *_: seen.append(engine.running))
    assert max(seen) == 3
    assert len(answers(job.output)) == 40


def test_two_runs_never_write_the_same_file(directory: Path, tmp_path: Path) -> None:
    with (
        AnswerFile(tmp_path / "out.jsonl", "a", 1, overwrite=False),
        pytest.raises(ConfigError, match="Another process"),
    ):
        AnswerFile(tmp_path / "out.jsonl", "a", 1, overwrite=False)


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", {"prompt": "one"})
    for output, words in ((tmp_path / "no" / "out.jsonl", "No such file"), (tmp_path, "not a regular file")):
        with pytest.raises(ConfigError, match=words):
            no_engine(Job(prompts, output, PARAMS))


FILL = """
import resource, sys
from pathlib import Path
from penstock.core.errors import PenstockError
from penstock.engine.offline.answers import AnswerFile
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with AnswerFile(Path(sys.argv[1]), "run", 1000, overwrite=False) as answers:
    try:
        for index in range(len(answers.done), 1000):
            answers.write({"index": index, "text": "x" * 100})
    except PenstockError as error:
        sys.exit(error.message)
"""


def test_a_disk_that_fills_up_keeps_whole_lines_and_the_run_can_go_on(tmp_path: Path) -> None:
    """The kernel refuses to let the file grow past a limit in the middle of a line, as a full disk does."""
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", FILL, str(output)]
    unlimited = str(resource.RLIM_INFINITY)
    full = subprocess.run([*command, "5000"], capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert "run the same command again" in full.stderr
    before = answers(output)
    assert 0 < len(before) < 50
    assert output.stat().st_size <= 5000
    subprocess.run([*command, unlimited], check=True)
    assert set(answers(output)) == set(range(1000))


def test_a_disk_that_fills_up_stops_the_whole_run(directory: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(self: AnswerFile, answer: dict[str, Any]) -> None:
        raise PenstockError("full", code="not_writable")

    monkeypatch.setattr(AnswerFile, "write", refuse)
    prompts = write_jsonl(tmp_path / "p.jsonl", *({"prompt": f"prompt {i}"} for i in range(5)))
    engine = FakeEngine(directory)
    with pytest.raises(PenstockError, match="full"):
        run(engine, Job(prompts, tmp_path / "out.jsonl", PARAMS))
    assert engine.state == "stopped"
