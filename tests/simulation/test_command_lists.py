"""Lists of commands over a host that Hypothesis makes up, against the same oracle, and shrinks where one fails.

`test_simulation` draws by lot, fast and in numbers; this looks for what is small. All times are on a coarse grid, so
that much happens at one instant.
"""

from __future__ import annotations

import math
import signal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.scenario import (
    Act,
    AnyCommand,
    Block,
    Call,
    Get,
    Handler,
    List,
    Moment,
    Part,
    Scenario,
    Send,
    Spawn,
    Stop,
    Stream,
    Wait,
    WorkerPlan,
)
from simulation.verdict import complaints_about

GRID = 0.25
MOST_COMMANDS = 12


def times(most: float) -> st.SearchStrategy[float]:
    return st.integers(0, int(most / GRID)).map(lambda steps: steps * GRID)


def perhaps(strategy: st.SearchStrategy[float], otherwise: float) -> st.SearchStrategy[float]:
    return st.just(otherwise) | strategy


plain_acts = st.sampled_from(
    [
        Act("ready"),
        Act("beat"),
        Act("heartbeat"),
        Act("stopped"),
        Act("exit"),
        Act("exit", 3),
        Act("die of a signal", int(signal.SIGSEGV)),
        Act("vanish"),
        Act("send nonsense"),
        Act("speak nonsense"),
        Act("close control"),
        Act("take calls"),
        Act("close calls"),
        Act("answer nobody"),
    ]
)
acts = plain_acts | st.builds(Act, st.sampled_from(["send", "complete", "fail", "exiting"]), st.integers(1, 3))
EXITS = ("exit", "die of a signal", "vanish")


def until_exit(acts: list[Act]) -> tuple[Act, ...]:
    """Leave out what a child would do after its exit."""
    exits = [place for place, act in enumerate(acts) if act.what in EXITS]
    return tuple(acts[: exits[0] + 1] if exits else acts)


words = st.sampled_from(["answer", "raise", "refuse", "say cancelled", "item", "item", "push", "end"]).map(Act)

moments = st.builds(Moment, times(3), st.lists(acts, min_size=1, max_size=3).map(until_exit))
ready = times(1).map(lambda at: Moment(at, (Act("ready"),)))
plans = st.builds(lambda first, rest: (first, *rest), ready, st.lists(moments, max_size=3).map(tuple))
parts = st.builds(
    Part,
    launch_seconds=perhaps(times(2), 0.0),
    launch_fails=st.sampled_from([False, False, False, True]),
    plan=plans | st.lists(moments, max_size=2).map(tuple),
    at_stop=st.none() | st.lists(moments, max_size=2).map(tuple),
    withstands_kill=st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.0]),
    has_pid=st.booleans(),
    calls=st.sampled_from(["ready", "ready", "ready", "later", "protocol 1"]),
)
stubborn_parts = st.builds(
    Part, launch_seconds=times(0.5), is_launched_regardless=st.just(True), plan=plans, at_stop=st.none()
)
said = st.builds(Moment, times(2), st.lists(words | words | acts, min_size=1, max_size=3).map(until_exit))
handlers = st.builds(
    Handler, st.lists(said, max_size=2).map(tuple), st.none() | st.just(()) | st.lists(said, max_size=1).map(tuple)
)
graces = st.sampled_from([None, None, 0.0, 0.5, 3.0])
users = st.sampled_from([None, "ada", "ben"])
blocks = st.builds(Block, times(8).map(lambda at: at + 1), st.sampled_from(["return", "error", "cancel"]))


@st.composite
def commands(draw: st.DrawFn, number: int, spawns: list[int]) -> AnyCommand:
    """Make up a command; all but a spawn are about one that came before it."""
    at = draw(times(6))
    common = {
        "worker": draw(st.integers(0, 1)),
        "at": at,
        "cancelled_at": draw(perhaps(times(3).map(at.__add__), math.inf)),
    }
    kinds = [Stop, Send, Get, Wait, List, Spawn, Call, Call, Stream] if spawns else [Spawn]
    match draw(st.sampled_from([Spawn, *kinds])):
        case kind if kind is Spawn:
            return Spawn(
                **common,
                part=draw(parts | stubborn_parts),
                kind=draw(st.sampled_from(["a", "a", None])),
                key=draw(st.sampled_from(["a", "a", " a ", None])),
                user_id=draw(st.sampled_from(["ada", "ada", "ben", None])),
                startup_timeout=draw(st.sampled_from([5.0, 1.25])),
                heartbeat_timeout=draw(st.sampled_from([math.inf, 1.0])),
                run_seconds=draw(st.sampled_from([math.inf, math.inf, 1.0])),
                replace_existing=draw(st.booleans()),
                grace_period=draw(graces),
                replace_grace=draw(graces),
                after_end_of=draw(st.none() | st.sampled_from(spawns)) if spawns else None,
            )
        case kind if kind is List:
            return List(**common, user_id=draw(users), key=draw(st.sampled_from([None, "a"])))
        case kind if kind is Stop:
            return Stop(
                **common,
                target=draw(st.sampled_from(spawns)),
                user_id=draw(users),
                reason="enough",
                grace=draw(graces),
            )
        case kind if issubclass(kind, Call):
            reading = {"window": draw(st.integers(1, 3)), "reads": draw(st.lists(times(1), max_size=4).map(tuple))}
            return kind(
                **common,
                **(reading if kind is Stream else {}),
                target=draw(st.sampled_from(spawns)),
                timeout=draw(perhaps(times(2).map(GRID.__add__), math.inf)),
                kills=draw(st.booleans()),
                is_cancelled_by_hand=draw(st.booleans()),
                handler=draw(handlers),
            )
        case kind if kind is Send:
            return Send(**common, target=draw(st.sampled_from(spawns)), user_id=draw(users))
        case kind:
            return kind(**common, target=draw(st.sampled_from(spawns)))


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    made: list[AnyCommand] = []
    for number in range(draw(st.integers(1, MOST_COMMANDS))):
        spawns = [other for other, command in enumerate(made) if isinstance(command, Spawn)]
        command = draw(commands(number, spawns))
        if isinstance(command, Spawn) and command.after_end_of is not None:  # it is its worker's handler that starts it
            command = attrs.evolve(command, worker=made[command.after_end_of].worker)
        made.append(command)
    return Scenario(
        workers=(
            WorkerPlan(draw(blocks), draw(st.sampled_from(["ada", None])), draw(st.booleans())),
            WorkerPlan(draw(blocks), None),
        ),
        commands=tuple(made),
        host=draw(blocks),
        kills=tuple(draw(st.lists(times(6), max_size=1))),
        grace_period=draw(st.sampled_from([1.0, 0.0])),
        max_processes=draw(st.sampled_from([16, 2])),
        cancel_grace=draw(st.sampled_from([1.0, 0.5])),
    )


def check(scenario: Scenario, seed: int) -> None:
    complaints = complaints_about(scenario, seed)
    assert not complaints, "\n".join([*complaints, scenario.describe()])


@given(scenarios(), st.integers(0, 2**32))
def test_any_list_of_commands_comes_to_what_the_contract_says(scenario: Scenario, seed: int) -> None:
    check(scenario, seed)


@pytest.mark.soak
@settings(settings.get_profile("soak"))
@given(scenarios(), st.integers(0, 2**32))
def test_any_of_very_many_lists_of_commands_comes_to_what_the_contract_says(scenario: Scenario, seed: int) -> None:
    check(scenario, seed)
