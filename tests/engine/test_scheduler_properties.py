"""Random schedules without a model: whatever arrives, ends or hangs up, the scheduler's promises hold.

The checks are in `support.scheduling`; here is what drives them.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from support.scheduling import Simulation, config, request


def random_simulation(random: Random, *, caching: bool, drafts: bool) -> Simulation:
    block_size = random.randint(1, 5)
    model_len = random.randint(1, 40)
    budget = random.randint(2, 32)
    settings = config(
        max_num_seqs=random.randint(1, 10),
        max_num_batched_tokens=budget,
        max_prefill_tokens_while_decoding=random.randint(1, budget),
        attention_span=4 * block_size,
        max_model_len=model_len,
        block_size=block_size,
        max_waiting=30,
        enable_prefix_caching=caching,
    )
    least = -(-model_len // block_size)
    return Simulation(
        settings,
        random.randint(least, 4 * least),
        vocabulary=random.randint(1, 3),
        seed=random.randrange(2**32),
        drafts=drafts,
    )


def random_arrival(simulation: Simulation, random: Random, name: str, *, priorities: int, salts: int) -> None:
    length = random.randint(1, simulation.settings.max_model_len)
    kinds = random.choice([1, 2])  # many prompts begin alike
    prompt = [random.randrange(kinds) for _ in range(length)]
    simulation.add(
        request(
            name,
            prompt,
            priority=random.randrange(priorities),
            arrival_time=float(random.randrange(20)),
            salt=str(random.randrange(salts)),
            prompt_logprobs=0 if random.random() < 0.1 else None,
        ),
        output_tokens=random.randint(1, 30),
    )


def run_random_schedule(
    seed: int, *, caching: bool = True, priorities: int = 1, hang_ups: float = 0.0, drafts: bool = False
) -> Simulation:
    random = Random(seed)
    simulation = random_simulation(random, caching=caching, drafts=drafts)
    salts = random.randint(1, 2)
    for number in range(random.randint(1, 25)):
        if len(simulation.waiting()) < simulation.settings.max_waiting:
            random_arrival(simulation, random, f"r{number}", priorities=priorities, salts=salts)
        if simulation.live and random.random() < hang_ups:
            simulation.abort(random.choice(sorted(simulation.live)))
        if random.random() < 0.5:
            gone = [name for name in sorted(simulation.live) if random.random() < hang_ups / 4]
            simulation.step(abort_meanwhile=gone)
    simulation.drain()
    return simulation


SCHEDULES = 400


@pytest.mark.parametrize("caching", [True, False])
def test_given_one_priority_when_anything_arrives_then_every_request_ends_with_its_own_tokens(caching: bool) -> None:
    runs = [run_random_schedule(seed, caching=caching) for seed in range(SCHEDULES)]

    assert sum(run.preempted for run in runs) > SCHEDULES  # the pools were small enough to matter
    assert (sum(run.hits for run in runs) > SCHEDULES) == caching


def test_given_several_priorities_when_anything_arrives_then_the_higher_never_waits_for_the_lower() -> None:
    runs = [run_random_schedule(seed, priorities=3) for seed in range(SCHEDULES)]

    assert sum(run.preempted for run in runs) > SCHEDULES


def test_given_clients_that_hang_up_at_any_moment_then_nothing_of_theirs_is_left() -> None:
    runs = [run_random_schedule(seed, priorities=2, hang_ups=0.3) for seed in range(2 * SCHEDULES)]

    assert sum(run.hits for run in runs) > SCHEDULES


def test_given_guesses_ahead_when_some_are_right_then_every_request_ends_with_its_own_tokens() -> None:
    runs = [run_random_schedule(seed, priorities=2, hang_ups=0.1, drafts=True) for seed in range(SCHEDULES)]

    assert sum(run.right for run in runs) > SCHEDULES
    assert sum(run.preempted for run in runs) > SCHEDULES // 2
    assert sum(run.hits for run in runs) > SCHEDULES


class SchedulerMachine(RuleBasedStateMachine):
    """The same checks, driven by hypothesis, which shrinks what breaks them to a few lines."""

    simulation: Simulation
    arrivals: int

    @initialize(
        block_size=st.integers(1, 4),
        model_len=st.integers(1, 16),
        spare_blocks=st.integers(0, 12),
        places=st.integers(1, 5),
        budget=st.integers(2, 12),
        prefill=st.integers(1, 12),
        span=st.sampled_from([1, 4, 1000]),
        caching=st.booleans(),
        drafts=st.booleans(),
    )
    def start(
        self,
        block_size: int,
        model_len: int,
        spare_blocks: int,
        places: int,
        budget: int,
        prefill: int,
        span: int,
        caching: bool,
        drafts: bool,
    ) -> None:
        settings = config(
            max_num_seqs=places,
            max_num_batched_tokens=budget,
            max_prefill_tokens_while_decoding=prefill,
            attention_span=span,
            max_model_len=model_len,
            block_size=block_size,
            enable_prefix_caching=caching,
        )
        self.simulation = Simulation(settings, -(-model_len // block_size) + spare_blocks, drafts=drafts)
        self.arrivals = 0

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=16),
        output_tokens=st.integers(1, 10),
        priority=st.integers(-1, 1),
        arrival_time=st.integers(0, 3),
        salt=st.sampled_from(["", "a"]),
        prompt_logprobs=st.sampled_from([None, 0]),
    )
    def arrive(
        self,
        prompt: list[int],
        output_tokens: int,
        priority: int,
        arrival_time: int,
        salt: str,
        prompt_logprobs: int | None,
    ) -> None:
        self.arrivals += 1
        self.simulation.add(
            request(
                f"r{self.arrivals}",
                prompt[: self.simulation.settings.max_model_len],
                priority=priority,
                arrival_time=float(arrival_time),
                salt=salt,
                prompt_logprobs=prompt_logprobs,
            ),
            output_tokens,
        )

    @rule(steps=st.integers(1, 5))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.simulation.step()

    @precondition(lambda self: self.simulation.live)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        self.simulation.abort(data.draw(st.sampled_from(sorted(self.simulation.live))))

    @precondition(lambda self: self.simulation.live)
    @rule(data=st.data())
    def hang_up_during_a_step(self, data: st.DataObject) -> None:
        self.simulation.step(abort_meanwhile=[data.draw(st.sampled_from(sorted(self.simulation.live)))])

    def teardown(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.drain()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=30, deadline=None, derandomize=True
)
