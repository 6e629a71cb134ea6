"""Faults planted in services, each of which one of the first numbers has to notice; see `test_planted_faults`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from simulation.services_drawing import draw_services
from simulation.test_planted_faults import Patch, replace
from simulation.verdict import complaints_about_services
from spindle_trio import ProcessLostError, Service
from spindle_trio._services import _keeper, _restart
from spindle_trio._services._keeper import Keeper
from spindle_trio._services._messages import ServiceMessageChannel
from spindle_trio._services._restart import TABLE, Ending, Rule
from spindle_trio._services._status import Status
from spindle_trio._services._unit import Unit

MOST = 400
"""Seeds within which each fault is caught."""


def assert_is_caught(plant: Callable[[Patch], None]) -> None:
    """Plant a fault, and look whether the oracle notices it in one of many scenarios."""
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        found = (complaints_about_services(draw_services(seed), seed) for seed in range(MOST))
        complaints = next(filter(None, found), None)
    assert complaints is not None, f"none of {MOST} scenarios notices that {plant.__name__}"
    assert not complaints[0].startswith("raised"), "it is the oracle that has to notice"


def decide_otherwise(patch: Patch, change: Callable[[dict[str, Any]], None]) -> None:
    """Have a keeper ask the table something else."""

    def decide(policy: Any, failures: int, ending: Ending, **rest: Any) -> Any:
        asked = {"policy": policy, "failures": failures, "ending": ending, **rest}
        change(asked)
        return _restart.decide(asked.pop("policy"), asked.pop("failures"), asked.pop("ending"), **asked)

    patch.setattr(_keeper, "decide", decide)


def the_delay_never_grows(patch: Patch) -> None:
    patch.setattr(_restart, "_delay", lambda policy, _: policy.delay)


def the_delay_has_no_cap(patch: Patch) -> None:
    patch.setattr(_restart, "_delay", lambda policy, failures: policy.delay * policy.factor ** (failures - 1))


def no_process_ever_proves_itself(patch: Patch) -> None:
    decide_otherwise(patch, lambda asked: asked.update(ready_at=None))


def every_process_that_was_ready_has_proved_itself(patch: Patch) -> None:
    def change(asked: dict[str, Any]) -> None:
        if asked["ready_at"] is not None:
            asked["ready_at"] = -math.inf

    decide_otherwise(patch, change)


def it_gives_up_one_failure_late(patch: Patch) -> None:
    def change(asked: dict[str, Any]) -> None:
        if asked["policy"].give_up_after is not None:
            asked["policy"] = attrs.evolve(asked["policy"], give_up_after=asked["policy"].give_up_after + 1)

    decide_otherwise(patch, change)


def what_somebody_has_stopped_is_started_again(patch: Patch) -> None:
    patch.setitem(TABLE, (Ending.STOPPED, "always"), Rule.COUNT)  # type: ignore[arg-type]  # read-only to others


def what_has_completed_is_started_again_on_failure(patch: Patch) -> None:
    patch.setitem(TABLE, (Ending.COMPLETED, "on_failure"), Rule.COUNT)  # type: ignore[arg-type]  # as above


def a_restart_counts_as_a_failure(patch: Patch) -> None:
    patch.setitem(TABLE, (Ending.RECYCLED, "on_failure"), Rule.COUNT)  # type: ignore[arg-type]  # as above


def the_key_is_free_between_two_generations(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def options(unit: Unit) -> Any:
            made = original(unit)
            return {name: value for name, value in made.items() if name not in ("keep_key", "successor_of")}

        return options

    replace(patch, Unit, "_options", make)


def the_key_is_free_while_it_is_restarted(patch: Patch) -> None:
    def make(original: Any) -> Any:
        async def stop(unit: Unit, reason: Any, *, keep_key: bool = False, **rest: Any) -> Any:
            end = await original(unit, reason, **rest)
            if keep_key:
                unit._predecessor = None
            return end

        return stop

    replace(patch, Unit, "stop", make)


def the_key_is_never_given_up(patch: Patch) -> None:
    def make(original: Any) -> Any:
        async def close(unit: Unit) -> None:
            unit._predecessor = None
            await original(unit)

        return close

    replace(patch, Unit, "close", make)


def users_get_a_process_before_on_start_has_returned(patch: Patch) -> None:
    async def wait_running(status: Status, least: int = 0) -> Any:
        while True:
            if status._refusal is not None:
                raise status._refusal()
            process = status.unit.last
            if process is not None and process.state == "running" and status.unit.generation >= least:
                return process
            await status._changed.park()

    patch.setattr(Status, "wait_running", wait_running)


def an_on_start_that_raises_is_none(patch: Patch) -> None:
    def make(original: Any) -> Any:
        async def prepare(unit: Unit, handle: Any) -> Any:
            is_done, caught = await original(unit, handle)
            return is_done or caught is not None, None

        return prepare

    replace(patch, Unit, "_prepare", make)


def a_stop_waits_for_the_start_that_is_pending(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def ask_stop(keeper: Keeper, reason: Any, said: str) -> None:
            if keeper.status.state != "waiting":
                original(keeper, reason, said)
            elif not keeper._is_closing:
                keeper._is_closing = True
                keeper._refuse(said)

        return ask_stop

    replace(patch, Keeper, "_ask_stop", make)


def a_stop_is_forgotten_once_a_start_was_pending(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def ask_stop(keeper: Keeper, reason: Any, said: str) -> None:
            if keeper.status.state == "waiting" and said == "stop() was called":
                keeper._waits.cancel()
            else:
                original(keeper, reason, said)

        return ask_stop

    replace(patch, Keeper, "_ask_stop", make)


def a_restart_waits_for_the_delay(patch: Patch) -> None:
    def make(original: Any) -> Any:
        async def restart(keeper: Keeper, reason: Any) -> None:
            if keeper.status.state == "waiting":
                await keeper.status.wait_running(keeper._unit.generation + 1)
            else:
                await original(keeper, reason)

        return restart

    replace(patch, Keeper, "restart", make)


def nothing_is_recycled(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def begin(keeper: Keeper, worker: Any, settings: Any, policy: Any) -> None:
            original(keeper, worker, settings, attrs.evolve(policy, max_lifetime=math.inf))

        return begin

    replace(patch, Keeper, "__init__", make)


def a_lost_call_is_repeated(patch: Patch) -> None:
    def make(original: Any) -> Any:
        async def call(service: Service, *arguments: Any, **options: Any) -> Any:
            try:
                return await original(service, *arguments, **options)
            except ProcessLostError:
                return await original(service, *arguments, **options)

        return call

    replace(patch, Service, "call", make)


def what_a_process_said_last_is_lost_with_the_next_one(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def add(channel: ServiceMessageChannel, generation: int, process: Any) -> None:
            for _, messages in channel._parts:
                messages.close()
            channel._parts.clear()
            original(channel, generation, process)

        return add

    replace(patch, ServiceMessageChannel, "_add", make)


FAULTS = (
    the_delay_never_grows,
    the_delay_has_no_cap,
    no_process_ever_proves_itself,
    every_process_that_was_ready_has_proved_itself,
    it_gives_up_one_failure_late,
    what_somebody_has_stopped_is_started_again,
    what_has_completed_is_started_again_on_failure,
    a_restart_counts_as_a_failure,
    the_key_is_free_between_two_generations,
    the_key_is_free_while_it_is_restarted,
    the_key_is_never_given_up,
    users_get_a_process_before_on_start_has_returned,
    an_on_start_that_raises_is_none,
    a_stop_waits_for_the_start_that_is_pending,
    a_stop_is_forgotten_once_a_start_was_pending,
    a_restart_waits_for_the_delay,
    nothing_is_recycled,
    a_lost_call_is_repeated,
    what_a_process_said_last_is_lost_with_the_next_one,
)


@pytest.mark.quick(6)
@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_in_services_is_caught(plant: Callable[[Patch], None]) -> None:
    assert_is_caught(plant)
