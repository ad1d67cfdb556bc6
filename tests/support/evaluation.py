"""EleutherAI's lm-eval as the program it is: small tasks for it, and runs of it in a process of its own.

Run as a script it evaluates: a JSON file says what, another gets the results. One process for many evaluations, since
importing it takes longest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[3] / "shared" / "data" / "lm"
_TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
"""
_CHOICE = """\
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
_CLOZE = """\
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{{continuation}}"
metric_list: [{metric: acc}, {metric: perplexity, aggregation: perplexity, higher_is_better: false}]
"""
_ROLLING = """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
_GENERATE = """\
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n", "Q:"], max_gen_toks: 24, temperature: 0.0, do_sample: false}
metric_list: [{metric: exact_match}]
"""


PUBLIC = {"piqa": _CHOICE, "arc_easy": _CHOICE, "lambada_openai": _CLOZE}


def write_small_tasks(directory: Path, foreseen: dict[str, str]) -> dict[str, str]:
    """Tasks of each kind that lm-eval has, with texts over a context of 256 bytes; names by kind.

    `foreseen` maps prompts to what the model goes on with when greedy, so that there is an answer it would give.
    """
    long = "".join(f"{i} is the {i}th line that nobody needs.\n" for i in range(20))
    choices = [
        {"query": f"{prefix}Question {i}: où est-il né ?\nAnswer:", "choices": wrong[: 2 + i % 2], "gold": i % 2}
        for i in range(4)
        for prefix in ("", long)
        for wrong in ([" à Paris", " in 東京, near the sea", "  "],)
    ]
    clozes = [{"context": f"{long[i * 90 :]}The quick brown", "continuation": f" fox {i} 🦊"} for i in range(5)]
    clozes += [{"context": prompt, "continuation": text} for prompt, text in foreseen.items()]
    texts = [{"text": text} for text in ("One line.", long, "naïve café 日本語 " * 40)]
    prompts = [{"context": f"Q: how many are {i} and {i + 1}?\nA:", "answer": str(2 * i + 1)} for i in range(4)]
    kinds = {
        "choice": (_CHOICE, choices),
        "cloze": (_CLOZE, clozes),
        "rolling": (_ROLLING, texts),
        "generate": (_GENERATE, prompts),
    }
    return {kind: _write(directory, f"small_{kind}", *task) for kind, task in kinds.items()}


def write_public_tasks(directory: Path, items: int) -> list[str]:
    """The first items of well-known tasks, from copies of their data; [] where there are no copies."""
    names = []
    for name, kind in PUBLIC.items():
        file = DATA / f"{name}.jsonl"
        if file.is_file():
            with file.open(encoding="utf-8") as lines:
                rows = [json.loads(line) for line, _ in zip(lines, range(items), strict=False)]
            if kind is _CLOZE:
                rows = [{**row, "continuation": f" {row['continuation']}"} for row in rows]
            names.append(_write(directory, f"public_{name}", kind, rows))
    return names


def _write(directory: Path, name: str, kind: str, rows: list[dict[str, Any]]) -> str:
    (directory / f"{name}.yaml").write_text(_TASK.format(name=name) + kind, encoding="utf-8")
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return name


def evaluate(directory: Path, evaluations: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Run evaluations of the tasks in `directory`: arguments of `lm_eval.simple_evaluate` by name.

    Gives by name the "scores" {task: {metric: value}} and the "items" {task: [responses of each item]}.
    """
    asked, answered = directory / "evaluations.json", directory / "results.json"
    asked.write_text(json.dumps(evaluations))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(directory / "cache")}
    env = {**os.environ, **offline, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, asked.name, answered.name],
        cwd=directory, env=env, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-8000:]
    results: dict[str, Any] = json.loads(answered.read_text())
    return results


def _main(asked: Path, answered: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(asked.parent.resolve()), include_defaults=False)
    results = {}
    for name, arguments in json.loads(asked.read_text()).items():
        found = simple_evaluate(**arguments, task_manager=tasks, log_samples=True, bootstrap_iters=0)
        scores = {
            task: {metric: value for metric, value in values.items() if isinstance(value, float)}
            for task, values in found["results"].items()
        }
        items = {
            task: [sample["resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
            for task, samples in found["samples"].items()
        }
        results[name] = {"scores": scores, "items": items}
    answered.write_text(json.dumps(results))


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
