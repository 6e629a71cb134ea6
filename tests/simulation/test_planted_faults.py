"""The engine fails when it should: each fault planted in the library here is caught by one of the first numbers.

A simulation that passes says as much as it would have noticed. So each of these breaks one promise of the contract,
some of them only where two things happen at one instant, and the numbers are played until one of them complains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from simulation.drawing import draw
from simulation.verdict import complaints_about
from spindle_trio._host._claims import Claim
from spindle_trio._host._registry import Registry
from spindle_trio._host._worker_scope import WorkerScope
from spindle_trio._messages._broadcast import Broadcast
from spindle_trio._messages._inbox import Inbox
from spindle_trio._model import StopOptions
from spindle_trio._supervision import _lifecycle, _supervised_process
from spindle_trio._supervision._intake import Intake
from spindle_trio._supervision._lifecycle import Lifecycle, Step
from spindle_trio._supervision._state_table import FAILED, TABLE, TIMED_OUT, Action, Input, Phase, Rule
from spindle_trio._supervision._supervised_process import SupervisedProcess
from spindle_trio._supervision._supervisor import Supervisor

MOST = 600
"""Seeds within which each fault is caught."""

Patch = pytest.MonkeyPatch


def replace(patch: Patch, owner: type, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method by what is made from the original."""
    patch.setattr(owner, name, make(getattr(owner, name)))


def assert_is_caught(plant: Callable[[Patch], None]) -> None:
    """Plant a fault, and look whether the oracle notices it in one of many scenarios."""
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        complaints = next(filter(None, (complaints_about(draw(seed), seed) for seed in range(MOST))), None)
    assert complaints is not None, f"none of {MOST} scenarios notices that {plant.__name__}"
    assert not complaints[0].startswith("raised"), "it is the oracle that has to notice"


def an_exit_reason_is_swapped(patch: Patch) -> None:
    rule = TABLE[Phase.RUNNING, Input.HEARTBEAT_DEADLINE]
    patch.setitem(TABLE, (Phase.RUNNING, Input.HEARTBEAT_DEADLINE), attrs.evolve(rule, end=FAILED))  # type: ignore[arg-type]  # read-only to others


def the_childs_word_loses_against_a_stop(patch: Patch) -> None:
    rule = TABLE[Phase.STOPPING, Input.REPORTED_STOPPED]
    patch.setitem(TABLE, (Phase.STOPPING, Input.COMPLETE), rule)  # type: ignore[arg-type]  # as above


def a_launch_that_fails_is_a_timeout(patch: Patch) -> None:
    rule = Rule(Phase.ENDING, Action.NOTHING, TIMED_OUT)
    patch.setitem(TABLE, (Phase.STARTING, Input.LAUNCH_FAILED), rule)  # type: ignore[arg-type]  # as above


def the_last_of_several_messages_is_dropped(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def put_many(inbox: Inbox, payloads: Any, sizes: Any) -> None:
            most = len(payloads) if len(payloads) < 3 else len(payloads) - 1
            original(inbox, payloads[:most], sizes[:most])

        return put_many

    replace(patch, Inbox, "put_many", make)


def messages_change_places(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def take_in_all(intake: Intake) -> None:
            put_many = intake._inbox.put_many
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(Inbox, "put_many", lambda _, payloads, sizes: put_many(payloads[::-1], sizes[::-1]))
                original(intake)

        return take_in_all

    replace(patch, Intake, "take_in_all", make)


def what_was_sent_before_an_exit_is_lost(patch: Patch) -> None:
    patch.setattr(Intake, "take_in_all", lambda intake: intake.take_in_control(64))


def a_key_is_freed_while_its_process_is_stopping(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def claim(registry: Registry, user_id: Any, kind: str, key: str | None, **options: Any) -> Claim:
            keyed = registry._keys.get((user_id, kind, key or ""))
            if keyed is not None and keyed.current.holder is not None and keyed.current.holder.state == "stopping":
                key = f"{key} again"
            return original(registry, user_id, kind, key, **options)  # type: ignore[no-any-return]  # it is made of anything

        return claim

    replace(patch, Registry, "claim", make)


def those_who_wait_for_a_key_overtake_one_another(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def release(registry: Registry, claim: Claim) -> Claim | None:
            keyed = None if claim.place is None else registry._keys.get(claim.place)
            if keyed is not None and not claim.is_waiting:
                keyed.waiting = type(keyed.waiting)(reversed(keyed.waiting.items()))
            return original(registry, claim)  # type: ignore[no-any-return]  # as above

        return release

    replace(patch, Registry, "release", make)


def the_watchdog_is_off_by_a_second(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def begin(life: Lifecycle, **periods: float) -> None:
            original(life, **{**periods, "heartbeat_timeout": periods["heartbeat_timeout"] + 1})

        return begin

    replace(patch, Lifecycle, "__init__", make)


def run_seconds_count_from_the_spawn(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def enter(life: Lifecycle, now: float) -> Any:
            transition = original(life, now)
            if transition is not None and transition.state == "running":
                life.run_deadline = life.started_at + life.run_seconds
            return transition

        return enter

    replace(patch, Lifecycle, "_enter", make)


def a_second_request_extends_the_grace_period(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def feed(life: Lifecycle, said: Input, now: float, **details: Any) -> Step:
            if said is Input.HOST_STOP and life.phase is Phase.STOPPING:
                life.grace_deadline = now + life.grace_period
            return original(life, said, now, **details)  # type: ignore[no-any-return]  # as above

        return feed

    replace(patch, Lifecycle, "feed", make)


def a_grace_period_that_runs_never_becomes_shorter(patch: Patch) -> None:
    def take_grace(life: Lifecycle, grace: float, now: float) -> None:
        if life.phase in (Phase.STARTING, Phase.RUNNING):
            life.grace_period = grace

    patch.setattr(Lifecycle, "_take_grace", take_grace)


def a_replacement_leaves_the_old_process_its_own_grace_period(patch: Patch) -> None:
    def make(original: Any) -> Any:
        return lambda process, grace: original(process, None)

    replace(patch, SupervisedProcess, "replace", make)


def a_process_that_withstands_its_kill_is_waited_for_longer(patch: Patch) -> None:
    patch.setattr(_lifecycle, "ABANDON_SECONDS", 2.0)


def a_cancelled_spawn_asks_before_it_kills(patch: Patch) -> None:
    patch.setattr(SupervisedProcess, "caller_gone", lambda process: process.request_stop(StopOptions()))


def a_kill_asks_first(patch: Patch) -> None:
    def kill(process: SupervisedProcess) -> None:
        process.unload(1_000)
        process.feed(Input.KILL)

    patch.setattr(SupervisedProcess, "kill", kill)


def the_reason_of_a_stop_is_forgotten(patch: Patch) -> None:
    patch.setattr(_supervised_process, "encode_stop", lambda _: b'{"type":"stop"}')


def a_stop_returns_before_the_end_is_announced(patch: Patch) -> None:
    """The terminal event comes a moment later, which no clock shows."""

    def make(original: Any) -> Any:
        def publish(broadcast: Any, event: Any, process_id: str) -> None:
            if event.exit_reason is None:
                original(broadcast, event, process_id)
            else:
                trio.lowlevel.current_trio_token().run_sync_soon(original, broadcast, event, process_id)

        return publish

    replace(patch, Broadcast, "publish", make)


def a_deadline_judges_before_it_looks_at_what_has_come(patch: Patch) -> None:
    """Contract, rule 7. It shows only if a deadline and a frame meet at one instant."""

    def make(original: Any) -> Any:
        def judge(supervisor: Supervisor, launched: Any, intake: Intake) -> None:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(Intake, "take_in_control", lambda *_, **__: None)
                original(supervisor, launched, intake)

        return judge

    replace(patch, Supervisor, "_judge", make)


def a_stop_leaves_the_key_kept(patch: Patch) -> None:
    patch.setattr(Claim, "free_key", lambda _: None)


def a_stop_that_comes_too_late_leaves_the_key_kept(patch: Patch) -> None:
    patch.setattr(WorkerScope, "_give_up_key", lambda *_, **__: None)


def a_successor_that_is_cancelled_frees_the_key(patch: Patch) -> None:
    patch.setattr(Claim, "give_back_key", Claim.free_key)


def a_process_that_completes_keeps_no_key(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def release(registry: Registry, claim: Claim) -> Claim | None:
            if claim.keeping is not None and claim.holder is not None and claim.keeping.is_asked:
                claim.keeping.is_asked = claim.holder.state != "completed"
            return original(registry, claim)  # type: ignore[no-any-return]  # as above

        return release

    replace(patch, Registry, "release", make)


def a_kept_key_holds_no_slot(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def keep(registry: Registry, *claim: Any) -> bool:
            is_kept: bool = original(registry, *claim)
            registry._held -= is_kept
            return is_kept

        return keep

    replace(patch, Registry, "_keep", make)


FAULTS = (
    a_stop_leaves_the_key_kept,
    a_stop_that_comes_too_late_leaves_the_key_kept,
    a_successor_that_is_cancelled_frees_the_key,
    a_process_that_completes_keeps_no_key,
    a_kept_key_holds_no_slot,
    an_exit_reason_is_swapped,
    the_childs_word_loses_against_a_stop,
    a_launch_that_fails_is_a_timeout,
    the_last_of_several_messages_is_dropped,
    messages_change_places,
    what_was_sent_before_an_exit_is_lost,
    a_key_is_freed_while_its_process_is_stopping,
    those_who_wait_for_a_key_overtake_one_another,
    the_watchdog_is_off_by_a_second,
    run_seconds_count_from_the_spawn,
    a_second_request_extends_the_grace_period,
    a_grace_period_that_runs_never_becomes_shorter,
    a_replacement_leaves_the_old_process_its_own_grace_period,
    a_process_that_withstands_its_kill_is_waited_for_longer,
    a_cancelled_spawn_asks_before_it_kills,
    a_kill_asks_first,
    the_reason_of_a_stop_is_forgotten,
    a_stop_returns_before_the_end_is_announced,
    a_deadline_judges_before_it_looks_at_what_has_come,
)


@pytest.mark.quick(6)
@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_caught(plant: Callable[[Patch], None]) -> None:
    assert_is_caught(plant)
