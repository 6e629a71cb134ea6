"""Services: when a process is started again, who may use it meanwhile, and how a service ends.

The first part has a test for each way in which other supervisors went wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spindle_trio import (
    CallFailedError,
    CallTimeoutError,
    DuplicateKeyError,
    EntryError,
    LaggedError,
    Limits,
    PayloadError,
    ProcessHandle,
    ProcessLostError,
    RestartPolicy,
    Service,
    ServiceEvent,
    ServiceGaveUpError,
    ServiceMessage,
    StartupCancelledError,
    StartupFailedError,
    StartupTimeoutError,
    Worker,
    open_host,
    open_service,
)

from .conftest import World

STEADY = """
async def run(process):
    @process.on_call
    async def who(payload):
        return process.process_id

    @process.on_call
    async def end(payload):
        getattr(process, payload)("as it was told")
        await trio.sleep_forever()

    @process.on_call
    async def say(payload):
        for value in payload:
            await process.send(value)

    @process.on_call
    async def count(payload):
        for number in range(payload):
            yield number

    process.ready()
    process.beat_while_running()
"""
"""Answers calls, and ends as it is told."""

STUBBORN = STEADY.replace("process.ready()", "process.on_stop(print)\n    process.ready()")
"""Hears of a stop, and leaves it to the host to end it."""

CRASHES = """
async def run(process):
    process.ready()
    process.beat_while_running()
    await trio.sleep(process.payload or 0)
    process.fail("it crashes")
"""
"""Fails when it has lived for as many seconds as its payload says."""

LAST_WORD = """
async def run(process):
    @process.on_call
    async def end(payload):
        process.fail("as it was told")
        await trio.sleep_forever()

    process.ready()
    process.beat_while_running()
    await process.wait_stop()
    getattr(process, process.payload)("its last word")
"""
"""Has a word of its own when it is stopped."""

QUICK = RestartPolicy(delay=0.01, factor=1, jitter=0)
ALWAYS = RestartPolicy("always", delay=0.01, factor=1, jitter=0, give_up_after=None)


class Log:
    """The events of a service."""

    def __init__(self) -> None:
        self.events: list[ServiceEvent] = []
        self._changed = trio.lowlevel.ParkingLot()

    def note(self, event: ServiceEvent) -> None:
        self.events.append(event)
        self._changed.unpark_all()

    def kinds(self, generation: int | None = None) -> list[str]:
        return [str(event.kind) for event in self.events if generation in (None, event.generation)]

    def times(self, kind: str) -> list[float]:
        """The seconds between the first of all events and each of a kind."""
        first = self.events[0].at
        return [(event.at - first).total_seconds() for event in self.events if event.kind == kind]

    async def wait(self, kind: str, generation: int) -> ServiceEvent:
        """Wait for an event. A level."""
        await trio.lowlevel.checkpoint()
        while True:
            for event in self.events:
                if (event.kind, event.generation) == (kind, generation):
                    return event
            await self._changed.park()


@asynccontextmanager
async def opened(
    world: World, source: str = STEADY, *, host: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Service, Log]]:
    """Open a service of an entry."""
    async with working(world, source, **(host or {})) as (worker, entry), serving(worker, entry, **options) as both:
        yield both


@asynccontextmanager
async def working(world: World, source: str = STEADY, **host: Any) -> AsyncIterator[tuple[Worker, str]]:
    """Open a worker for an entry."""
    entry = world.entry(source)
    async with world.worker(**host) as worker:
        yield worker, entry


@asynccontextmanager
async def serving(worker: Worker, entry: str, **options: Any) -> AsyncIterator[tuple[Service, Log]]:
    """Open a service, and note its events."""
    log = Log()
    async with open_service(worker, entry, **options) as service:
        service.on_event(log.note)
        yield service, log


async def crash(service: Service) -> None:
    """Have its process fail."""
    with pytest.raises(ProcessLostError):
        await service.call("end", "fail")


async def end(process: ProcessHandle) -> None:
    """Have a process fail, if it does not end otherwise."""
    with suppress(ProcessLostError):
        await process.call("end", "fail")


async def live(worker: Worker) -> list[str]:
    return [info.process_id for info in await worker.backend_processes.list()]


# ---- what goes wrong elsewhere


async def test_a_crash_loop_gives_up_however_long_its_delays_are(world: World, world_clock: MockClock | None) -> None:
    policy = RestartPolicy(jitter=0) if world.is_virtual else RestartPolicy(delay=0.01, max_delay=0.04, jitter=0)
    began = trio.current_time()
    with pytest.raises(ServiceGaveUpError):
        async with opened(world, CRASHES, restart=policy):
            await trio.sleep_forever()
    if world.is_virtual:
        assert trio.current_time() - began == pytest.approx(0.5 + 1 + 2 + 4 + 8 + 16 + 30)
    assert world.reasons() == [("failed", "failed")] * 8


async def test_a_life_that_was_long_enough_begins_a_new_row_and_a_shorter_one_does_not(
    world: World, world_clock: MockClock | None
) -> None:
    stable_after = world.seconds(5, 0.2)
    policy = RestartPolicy(delay=world.seconds(0.5, 0.01), stable_after=stable_after, give_up_after=2, jitter=0)
    async with opened(world, CRASHES, restart=policy, payload=stable_after + world.seconds(0, 0.1)) as (_, log):
        await log.wait("running", 20 if world.is_virtual else 3)
        assert {event.failures for event in log.events if event.kind == "ended"} == {1}
        for event in log.events:
            if event.kind == "restart_scheduled":
                assert event.seconds == pytest.approx(policy.delay, abs=1e-6)
    with pytest.raises(ServiceGaveUpError):
        async with opened(world, CRASHES, restart=policy, payload=world.seconds(4.9, 0)) as (_, log):
            await trio.sleep_forever()
    assert [event.failures for event in log.events if event.kind == "ended"] == [1, 2]


@pytest.mark.parametrize("word", ["complete", "fail", "send_nowait"])
async def test_what_somebody_stops_stays_stopped_whatever_its_last_word(
    world: World, world_clock: MockClock | None, word: str
) -> None:
    async with (
        working(world, LAST_WORD) as (worker, entry),
        serving(worker, entry, restart=ALWAYS, payload=word, key="a") as (service, log),
    ):
        process = await service.wait_running()
        await worker.backend_processes.stop(process.process_id, reason="enough")
        await log.wait("stopped", 1)
        assert log.kinds() == ["ended", "stopped"]
        assert (service.state, service.process, service.failures) == ("stopped", None, 0)
        with pytest.raises(trio.ClosedResourceError, match=r"entry\.py \(key 'a'\) is stopped: somebody has"):
            await service.wait_running()
        with pytest.raises(trio.ClosedResourceError, match="somebody has stopped it"):
            await service.restart()
        await trio.sleep(world.seconds(100, 0.05))
        assert (service.generation, await live(worker)) == (1, [])


async def test_a_stop_beats_a_start_that_is_pending(world: World, world_clock: MockClock | None) -> None:
    async with working(world) as (worker, entry):
        delay = world.seconds(30, 0.6)
        async with serving(worker, entry, restart=RestartPolicy(delay=delay, jitter=0), key="a") as (service, log):
            await crash(service)
            await log.wait("restart_scheduled", 1)
            assert service.state == "waiting"
            restart_at = service.restart_at
            assert restart_at is not None
            await service.stop("we close")
            assert trio.current_time() < restart_at
            assert (service.state, service.restart_at) == ("stopped", None)
            with pytest.raises(trio.ClosedResourceError, match="is stopped: we close"):
                await service.call("who")
            await trio.sleep_until(restart_at + 0.1)
            assert (service.generation, await live(worker)) == (1, [])
            assert log.kinds() == ["ended", "restart_scheduled", "stopped"]


@pytest.mark.parametrize("moment", ["end", "start"])
@pytest.mark.parametrize("what", ["service", "process"])
async def test_a_stop_that_races_with_an_end_or_a_start_wins(
    virtual_world: World, autojump_clock: MockClock, what: str, moment: str
) -> None:
    """At each step from an end to the wait for the next start, and from there to the next life."""
    async with working(virtual_world) as (worker, entry):
        for steps in itertools.count():
            async with serving(worker, entry, restart=ALWAYS, key="a") as (service, log):
                process = await service.wait_running()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(end, process)
                    if moment == "start":
                        await log.wait("restart_scheduled", 1)
                        assert service.restart_at is not None
                        await trio.sleep_until(service.restart_at)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    is_over = (
                        service.state == "waiting" if moment == "end" else service.generation > 1 and service.process
                    )
                    if what == "service":
                        await service.stop()
                    else:
                        await worker.backend_processes.stop(process.process_id)
                        for process_id in await live(worker):
                            await worker.backend_processes.stop(process_id)
                await trio.sleep(1)
                assert service.state == "stopped", steps
                assert await live(worker) == []
                assert log.kinds()[-1] == "stopped"
            if is_over:
                assert steps > 2
                return


async def test_the_first_failure_is_followed_by_a_delay_less_what_chance_takes(
    world: World, world_clock: MockClock | None
) -> None:
    delay = world.seconds(10, 0.1)
    policy = RestartPolicy(delay=delay, factor=1, jitter=0.5, give_up_after=12)
    with pytest.raises(ServiceGaveUpError):
        async with opened(world, CRASHES, restart=policy) as (_, log):
            await trio.sleep_forever()
    waits = [event.seconds for event in log.events if event.kind == "restart_scheduled" and event.seconds is not None]
    assert len(waits) == 11
    assert delay / 2 <= min(waits) < max(waits) <= delay
    ended, started = log.times("ended"), log.times("started")
    assert all(later - earlier >= wait - 0.001 for earlier, later, wait in zip(ended, started, waits, strict=False))


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_a_week_of_crash_loops_costs_its_starts_and_nothing_between(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    policy = RestartPolicy(max_delay=3600, jitter=0, give_up_after=None)
    entry = virtual_world.entry(CRASHES)
    week = 7 * 24 * 3600
    steps = Steps()
    async with (
        open_host(virtual_world.launcher()) as host,
        host.open_worker("tests", root=virtual_world.root, user_id="ada") as worker,
    ):
        began = trio.current_time()
        trio.lowlevel.add_instrument(steps)
        with trio.move_on_after(week):
            async with open_service(worker, entry, restart=policy) as service:
                await trio.sleep_forever()
        trio.lowlevel.remove_instrument(steps)
        assert trio.current_time() - began == pytest.approx(week)
        assert service.generation == 180  # one an hour, and 13 before the delay has grown to that
        assert (
            steps.count < 25 * service.generation
        )  # of all tasks: those of the host, of the process and of the service


async def test_options_that_contradict_each_other_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"factor=1 and max_delay=5 .*never grows"):
        RestartPolicy(factor=1, max_delay=5)


async def test_nobody_is_let_through_before_ready_and_the_handshake(
    world: World, world_clock: MockClock | None
) -> None:
    source = STEADY.replace("return process.process_id", "return greeted").replace(
        "process.ready()",
        """
    greeted = []

    @process.on_call
    async def greet(payload):
        greeted.append(payload)

    await trio.sleep(process.payload)
    process.ready()""",
    )
    services: list[Service] = []
    seen: list[object] = []

    async def handshake(process: ProcessHandle) -> None:
        seen.extend(service.process for service in services)
        await trio.sleep(world.seconds(5, 0.05))
        seen.extend(service.process for service in services)
        await process.call("greet", "hello")

    async with opened(world, source, restart=QUICK, on_start=handshake, payload=world.seconds(5, 0.05)) as (
        service,
        log,
    ):
        services.append(service)
        for generation in (1, 2, 3):
            assert await service.call("who") == ["hello"]
            assert service.generation == generation
            async with trio.open_nursery() as nursery:
                await crash(service)
                nursery.start_soon(service.wait_running)
        assert await service.call("who") == ["hello"]
    assert seen == [None] * 6
    assert log.kinds(2)[:2] == ["started", "running"]


async def test_the_last_post_mortem_travels_in_the_error_and_attempts_are_events(
    world: World, world_clock: MockClock | None
) -> None:
    with pytest.raises(ServiceGaveUpError) as caught:
        async with opened(world, CRASHES, restart=QUICK, key="a") as (service, log):
            await trio.sleep_forever()
    error = caught.value
    assert str(error) == (
        "the service entry.py (key 'a') has given up after 8 failure(s) in a row; the last one, of generation 8: it "
        "crashes; mend what is wrong, and open it again"
    )
    assert (error.attempts, error.entry, error.key) == (8, "entry.py", "a")
    assert error.post_mortem is not None
    assert error.post_mortem.error == "it crashes"
    ends = [event for event in log.events if event.kind == "ended"]
    assert [event.generation for event in ends] == list(range(1, 9))
    assert [event.failures for event in ends] == list(range(1, 9))
    assert all(event.post_mortem is not None and event.error == "it crashes" for event in ends)
    assert log.kinds()[-1] == "gave_up"
    assert log.events[-1].post_mortem == error.post_mortem
    assert service.state == "gave_up"
    with pytest.raises(ServiceGaveUpError):
        await service.wait_running()


# ---- starting


async def test_a_process_that_fails_is_followed_by_another(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, restart=QUICK) as (service, log):
        first = await service.wait_running()
        assert (service.state, service.generation, service.failures) == ("running", 1, 0)
        assert await service.call("who") == first.process_id
        await crash(service)
        second = await service.wait_running()
        assert second.process_id != first.process_id
        assert service.process is second
        assert (service.state, service.generation, service.failures) == ("running", 2, 1)
        assert await service.call("who") == second.process_id
        assert repr(service) == f"<Service running entry.py {second.process_id} generation=2 failures=1>"
        assert log.kinds() == ["ended", "restart_scheduled", "started", "running"]
        ended, scheduled, started, running = log.events
        assert (ended.process_id, ended.failures, ended.error) == (first.process_id, 1, "as it was told")
        assert ended.info == first.info
        assert scheduled.restart_at is not None
        assert (scheduled.restart_at - ended.at).total_seconds() == pytest.approx(0.01, abs=0.005)
        assert (started.generation, started.process_id) == (2, None)
        assert (running.generation, running.process_id) == (2, second.process_id)
    assert log.kinds()[-2:] == ["ended", "stopped"]
    assert world.reasons() == [("failed", "failed"), ("stopped", "stopped")]


@pytest.mark.parametrize(
    ("when", "word", "follows"),
    [
        ("never", "fail", False),
        ("never", "complete", False),
        ("on_failure", "complete", False),
        ("always", "complete", True),
    ],
)
async def test_the_policy_says_which_ends_are_followed_by_a_start(
    world: World, world_clock: MockClock | None, when: Any, word: str, follows: bool
) -> None:
    policy = RestartPolicy(when, delay=0.01, jitter=0)
    async with opened(world, restart=policy) as (service, log):
        with pytest.raises(ProcessLostError):
            await service.call("end", word)
        await log.wait("running" if follows else "stopped", 2 if follows else 1)
        assert service.state == ("running" if follows else "stopped")
        if not follows:
            with pytest.raises(trio.ClosedResourceError, match="it completed" if word == "complete" else "told"):
                await service.wait_running()


async def test_deadlines_that_are_missed_are_failures(world: World, world_clock: MockClock | None) -> None:
    source = """
    async def run(process):
        process.ready()
        await trio.sleep_forever()
    """
    async with opened(world, source, restart=QUICK, heartbeat_timeout=world.seconds(5, 0.3)) as (_, log):
        ended = await log.wait("ended", 1)
        assert ended.failures == 1
        assert ended.info is not None
        assert ended.info.state == "timed_out"
        assert ended.post_mortem is not None
        await log.wait("running", 2)


async def test_the_first_start_raises_as_a_spawn_does_and_leaves_nothing(
    world: World, world_clock: MockClock | None
) -> None:
    never_ready = "async def run(process):\n    await trio.sleep_forever()\n"
    async with working(world, "async def run(process):\n    process.fail('no luck')\n") as (worker, entry):
        with pytest.raises(StartupFailedError, match="no luck"):
            async with open_service(worker, entry, key="a"):
                pytest.fail("it was entered")
        with pytest.raises(EntryError):
            async with open_service(worker, "absent.py"):
                pytest.fail("it was entered")
        assert await live(worker) == []
        with pytest.raises(StartupFailedError):  # and no DuplicateKeyError: the key is free
            await worker.backend_processes.spawn(entry, key="a")
    async with working(world, never_ready) as (worker, entry):
        with pytest.raises(StartupTimeoutError):
            async with open_service(worker, entry, startup_timeout=0.2):
                pytest.fail("it was entered")
        with trio.move_on_after(0.1) as scope:
            async with open_service(worker, entry, key="a"):
                pytest.fail("it was entered")
        assert scope.cancelled_caught
        assert await live(worker) == []


async def test_a_later_start_that_fails_or_is_refused_is_a_failure(world: World, world_clock: MockClock | None) -> None:
    async with working(world, max_processes=1) as (worker, entry):
        policy = RestartPolicy(delay=0.5, factor=1, jitter=0, give_up_after=3)
        with pytest.raises(ServiceGaveUpError, match="as many as the host allows") as caught:
            async with serving(worker, entry, restart=policy) as (service, log):
                await crash(service)
                await log.wait("ended", 1)
                other = await worker.backend_processes.spawn(entry)
                await service.wait_running()
        assert caught.value.post_mortem is None
        assert type(caught.value.__cause__).__name__ == "ProcessLimitError"
        assert [event.info for event in log.events if event.kind == "ended"][1:] == [None, None]
        assert await live(worker) == [other.process_id]


# ---- on_start


async def test_an_on_start_that_raises_at_the_first_start_is_raised_bare(
    world: World, world_clock: MockClock | None
) -> None:
    async def refuse(process: ProcessHandle) -> None:
        raise KeyError(process.process_id)

    def plain(process: ProcessHandle) -> Any:
        return None

    async with working(world) as (worker, entry):
        with pytest.raises(KeyError):
            async with open_service(worker, entry, key="a", on_start=refuse):
                pytest.fail("it was entered")
        with pytest.raises(TypeError, match="type: async def on_start"):
            async with open_service(worker, entry, key="a", on_start=plain):
                pytest.fail("it was entered")
        assert await live(worker) == []
        await worker.backend_processes.spawn(entry, key="a")


async def test_an_on_start_that_raises_later_is_a_failure_and_keeps_the_key(
    world: World, world_clock: MockClock | None
) -> None:
    async with working(world) as (worker, entry):
        calls = itertools.count(1)

        async def refuse_the_second(process: ProcessHandle) -> None:
            if next(calls) == 2:
                raise KeyError("no")

        delay = world.seconds(5, 0.2)
        policy = RestartPolicy(delay=delay, factor=1, jitter=0)
        async with serving(worker, entry, restart=policy, key="a", on_start=refuse_the_second) as (service, log):
            await crash(service)
            ended = await log.wait("ended", 2)
            assert (ended.error, ended.failures, ended.seconds) == ("on_start raised KeyError: 'no'", 2, None)
            with pytest.raises(DuplicateKeyError):
                await worker.backend_processes.spawn(entry, key="a")
            await log.wait("running", 3)
            assert log.kinds(2) == ["started", "ended", "restart_scheduled"]


@pytest.mark.parametrize(("word", "waits_for"), [("complete", None), ("fail", None), ("fail", "wait_ended")])
async def test_an_on_start_whose_process_ends_is_cancelled_or_was_in_vain(
    world: World, world_clock: MockClock | None, word: str, waits_for: str | None
) -> None:
    source = f"""
    async def run(process):
        process.ready()
        process.beat_while_running()
        await trio.sleep({world.seconds(1, 0.05)})
        process.{word}("early")
    """

    async def wait(process: ProcessHandle) -> None:
        if waits_for is not None:
            await getattr(process, waits_for)()
        else:
            await trio.sleep_forever()

    with pytest.raises(StartupFailedError, match=r"the service entry\.py ended before on_start had returned"):
        async with opened(world, source, on_start=wait):
            pytest.fail("it was entered")


async def test_who_stops_the_first_process_before_on_start_has_returned_cancels_the_start(
    world: World, world_clock: MockClock | None
) -> None:
    async with working(world) as (worker, entry):

        async def stop(process: ProcessHandle) -> None:
            await worker.backend_processes.stop(process.process_id)
            await trio.sleep_forever()

        with pytest.raises(StartupCancelledError, match="somebody has stopped it"):
            async with open_service(worker, entry, on_start=stop):
                pytest.fail("it was entered")


# ---- keys


async def test_the_key_is_held_between_two_processes(world: World, world_clock: MockClock | None) -> None:
    async with working(world) as (worker, entry):
        policy = RestartPolicy(delay=world.seconds(5, 0.2), jitter=0)
        async with serving(worker, entry, restart=policy, key=" a ") as (service, log):
            await crash(service)
            await log.wait("restart_scheduled", 1)
            with pytest.raises(DuplicateKeyError):
                await worker.backend_processes.spawn(entry, key="a")
            process = await service.wait_running()
            assert process.key == "a"
            with pytest.raises(DuplicateKeyError):
                await worker.backend_processes.spawn(entry, key="a")
            await crash(service)
            await log.wait("restart_scheduled", 2)
        await worker.backend_processes.spawn(entry, key="a")  # it has been given up with the service


@pytest.mark.parametrize("moment", ["running", "waiting"])
async def test_who_takes_the_key_replaces_the_service(world: World, world_clock: MockClock | None, moment: str) -> None:
    async with working(world) as (worker, entry):
        policy = RestartPolicy(delay=world.seconds(5, 0.2), jitter=0)
        async with serving(worker, entry, restart=policy, key="a") as (service, log):
            if moment == "waiting":
                await crash(service)
                await log.wait("restart_scheduled", 1)
            other = await worker.backend_processes.spawn(entry, key="a", replace_existing=True)
            await log.wait("stopped", 1 if moment == "running" else 2)
            with pytest.raises(trio.ClosedResourceError, match=r"replaced it|no longer kept"):
                await service.wait_running()
            assert await live(worker) == [other.process_id]
        assert await live(worker) == [other.process_id]


async def test_the_key_is_free_when_the_service_is_over(world: World, world_clock: MockClock | None) -> None:
    async with working(world) as (worker, entry):
        with pytest.raises(ServiceGaveUpError):
            async with serving(worker, entry, key="a", restart=RestartPolicy(give_up_after=1)) as (service, _):
                await crash(service)
                await trio.sleep_forever()
        async with serving(worker, entry, key="a") as (service, _):
            await service.stop()
            await (await worker.backend_processes.spawn(entry, key="a")).stop()
        async with serving(worker, entry, key="a") as (service, log):
            with pytest.raises(ProcessLostError):
                await service.call("end", "complete")
            await log.wait("stopped", 1)
            await worker.backend_processes.spawn(entry, key="a")


# ---- using it


async def test_a_call_waits_for_a_process_within_its_time(world: World, world_clock: MockClock | None) -> None:
    delay = world.seconds(10, 0.9)
    async with opened(world, restart=RestartPolicy(delay=delay, jitter=0)) as (service, log):
        await crash(service)
        await log.wait("restart_scheduled", 1)
        began = trio.current_time()
        with pytest.raises(CallTimeoutError, match=r"the call of 'who' was not begun in time: it waited .* is waiting"):
            await service.call("who", timeout=delay / 30)
        world.assert_took(began, delay / 30)
        with pytest.raises(CallTimeoutError, match=r"the stream of 'count' was not begun in time"):
            async with service.stream("count", 3, timeout=delay / 30):
                pytest.fail("it was entered")
        assert await service.call("who", timeout=60) == (await service.wait_running()).process_id
        async with service.stream("count", 3) as items:
            assert [item async for item in items] == [0, 1, 2]


async def test_a_call_is_never_repeated(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, restart=QUICK) as (service, _):
        process = await service.wait_running()
        with pytest.raises(ProcessLostError) as caught:
            await service.call("end", "fail")
        assert caught.value.info.process_id == process.process_id
        assert await service.call("who") != process.process_id
        with pytest.raises(CallFailedError):
            await service.call("say", 5)
        assert service.generation == 2


async def test_a_message_is_sent_to_the_process_that_runs(world: World, world_clock: MockClock | None) -> None:
    source = """
    async def run(process):
        process.ready()
        process.beat_while_running()
        async for payload in process.messages():
            await process.send(payload)
            if payload == "crash":
                process.fail("it crashes")
    """
    async with opened(world, source, restart=QUICK) as (service, log):
        await service.send("crash")
        await log.wait("restart_scheduled", 1)
        await service.send("hello")
        await world.wait_payload("hello")
        with pytest.raises(PayloadError):
            await service.send({1, 2})
        assert service.generation == 2


async def test_bad_arguments_are_refused_by_name_and_nothing_is_lost(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world) as (service, _):
        for call in (service.call, service.stream):
            with pytest.raises(ValueError, match="timeout"):
                await call("who", timeout=0)
        with pytest.raises(ValueError, match="grace"):
            await service.stop(grace=-1)
        wrong: Any = 5
        with pytest.raises(TypeError, match="reason"):
            await service.restart(wrong)
        with pytest.raises(TypeError):
            service.on_event(wrong)
        assert service.state == "running"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"restart": "always"},
            TypeError,
            r"restart must be a RestartPolicy.* type: restart=RestartPolicy\('always'\)",
        ),
        ({"keep_key": True}, TypeError, "sees to keep_key itself"),
        ({"successor_of": "x"}, TypeError, "sees to successor_of itself"),
        ({"on_start": 5}, TypeError, "on_start must be an async function"),
        ({"keyy": "a"}, TypeError, "did you mean 'key'"),
        ({"startup_timeout": 0}, ValueError, "startup_timeout"),
    ],
    ids=str,
)
def test_what_a_service_cannot_be_opened_with_is_refused(options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        open_service(object(), "entry.py", **options)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(TypeError, match=r"type: async with host\.open_worker"):
        open_service(object(), "entry.py")  # type: ignore[arg-type]  # what is refused


async def test_another_thread_may_not_use_a_service(real_world: World) -> None:
    async with opened(real_world) as (service, _):

        async def elsewhere() -> None:
            for call in (service.wait_running, partial(service.call, "who"), partial(service.send, 1), service.restart):
                with pytest.raises(RuntimeError, match=r"wrong thread; .* trio\.from_thread\.run\(…"):
                    await call()
            with pytest.raises(RuntimeError, match="wrong thread"):
                await service.stop()
            for begin in (
                service.events,
                service.messages,
                partial(service.stream, "count"),
                partial(service.on_event, print),
            ):
                with pytest.raises(RuntimeError, match="wrong thread"):
                    begin()

        await trio.to_thread.run_sync(trio.run, elsewhere)
        assert (service.generation, service.state) == (1, "running")
        assert await trio.to_thread.run_sync(trio.from_thread.run, service.call, "who") is not None


# ---- restarts that somebody asks for

SAYS_WHY = """
async def run(process):
    process.ready()
    process.beat_while_running()
    notice = await process.wait_stop()
    await process.send(["stopped", notice.reason])
"""


async def test_a_restart_is_graceful_and_no_failure(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, SAYS_WHY, key="a") as (service, log):
        first = await service.wait_running()
        await service.restart("new config")
        assert (service.generation, service.failures, service.state) == (2, 0, "running")
        assert service.process is not None
        assert service.process.process_id != first.process_id
        assert first.state.is_terminal
        assert world.payloads() == [["stopped", "new config"]]
        assert log.kinds() == ["ended", "restart_scheduled", "started", "running"]
        assert (log.events[0].error, log.events[1].seconds) == ("it was put out for a new one", 0)


async def test_several_restarts_at_once_are_one(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, SAYS_WHY) as (service, _):
        async with trio.open_nursery() as nursery:
            for reason in ("a", "b", "c"):
                nursery.start_soon(service.restart, reason)
        assert service.generation == 2
        assert len(world.payloads()) == 1


async def test_a_restart_does_not_wait_for_a_delay(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, restart=RestartPolicy(delay=20)) as (service, log):
        await crash(service)
        await log.wait("restart_scheduled", 1)
        began = trio.current_time()
        await service.restart()
        assert trio.current_time() - began < 10
        assert (service.generation, service.failures) == (2, 1)


async def test_a_restart_that_comes_while_the_next_process_starts_is_served_by_one_more(
    world: World, world_clock: MockClock | None
) -> None:
    gates = [trio.Event(), trio.Event(), trio.Event()]
    reached = [trio.Event(), trio.Event(), trio.Event()]
    numbers = itertools.count()
    gates[0].set()

    async def wait(process: ProcessHandle) -> None:
        number = next(numbers)
        reached[number].set()
        await gates[number].wait()

    async with opened(world, on_start=wait) as (service, _), trio.open_nursery() as nursery:
        nursery.start_soon(service.restart)
        await reached[1].wait()
        nursery.start_soon(service.restart)
        gates[1].set()
        await reached[2].wait()
        gates[2].set()
    assert service.generation == 3


async def test_a_restart_that_meets_a_start_that_fails_does_not_wait_for_a_delay(
    world: World, world_clock: MockClock | None
) -> None:
    gate, reached = trio.Event(), trio.Event()
    numbers = itertools.count()

    async def fail_once(process: ProcessHandle) -> None:
        if next(numbers) == 1:
            reached.set()
            await gate.wait()
            raise KeyError

    policy = RestartPolicy(delay=0.1, factor=200, jitter=0)
    async with (
        opened(world, on_start=fail_once, restart=policy) as (service, _),
        trio.open_nursery() as nursery,
    ):
        await crash(service)
        await reached.wait()
        began = trio.current_time()
        nursery.start_soon(service.restart)
        await trio.lowlevel.checkpoint()
        gate.set()
        await service.wait_running()
        assert trio.current_time() - began < 10
        assert (service.generation, service.failures) == (3, 2)


async def test_a_stop_beats_a_restart(world: World, world_clock: MockClock | None) -> None:
    async with (
        working(world, STUBBORN) as (worker, entry),
        serving(worker, entry, key="a", grace_period=world.seconds(5, 0.3)) as (service, log),
    ):

        async def restart() -> None:
            with pytest.raises(trio.ClosedResourceError, match="enough"):
                await service.restart()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await world.wait_state("stopping")
            assert (service.state, service.process) == ("starting", None)
            await service.stop("enough")
        assert (service.generation, log.kinds()) == (1, ["ended", "stopped"])
        assert await live(worker) == []
        await worker.backend_processes.spawn(entry, key="a")  # the key is free


async def test_somebody_elses_stop_beats_a_restart_of_a_service_with_a_key(
    world: World, world_clock: MockClock | None
) -> None:
    async with working(world, STUBBORN) as (worker, entry):
        async with serving(worker, entry, key="a", grace_period=world.seconds(5, 0.3)) as (service, log):
            process = await service.wait_running()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.backend_processes.stop, process.process_id)
                with pytest.raises(trio.ClosedResourceError):
                    await service.restart()
            await log.wait("stopped", service.generation)
        assert await live(worker) == []
    assert world.states().count("running") == 1


async def test_a_restart_does_not_take_over_a_stop_that_is_under_way(
    world: World, world_clock: MockClock | None
) -> None:
    async with (
        working(world, STUBBORN) as (worker, entry),
        serving(worker, entry, grace_period=world.seconds(5, 0.3)) as (service, log),
        trio.open_nursery() as nursery,
    ):
        process = await service.wait_running()
        nursery.start_soon(worker.backend_processes.stop, process.process_id)
        await world.wait_state("stopping")
        assert service.process is None
        with pytest.raises(trio.ClosedResourceError, match="somebody has stopped it"):
            await service.restart()
        assert log.kinds() == ["ended", "stopped"]


async def test_a_process_whose_lifetime_is_over_makes_room_for_the_next(
    world: World, world_clock: MockClock | None
) -> None:
    policy = RestartPolicy(max_lifetime=world.seconds(60, 0.3), stable_after=world.seconds(30, 0.1), give_up_after=1)
    async with opened(world, SAYS_WHY, restart=policy, key="a") as (service, log):
        began = trio.current_time()
        await log.wait("running", 3)
        elapsed = trio.current_time() - began  # of real processes the starts, too
        assert elapsed == pytest.approx(120) if world.is_virtual else elapsed > 2 * policy.max_lifetime - 0.01
        assert service.failures == 0
        assert world.payloads() == [["stopped", f"its {policy.max_lifetime:g} seconds are over"]] * 2


# ---- messages


async def test_messages_come_from_one_generation_after_another(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, restart=QUICK, key="a") as (service, _):
        async with service.messages() as messages:
            for generation in (1, 2, 3):
                await service.call("say", [f"{generation} a", f"{generation} b"])
                await crash(service)
            found = [await messages.receive() for _ in range(3)]
            while len(found) < 6:
                found += await messages.receive_many()
            assert found == [
                ServiceMessage(generation, f"{generation} {letter}") for generation in (1, 2, 3) for letter in "ab"
            ]
            with pytest.raises(trio.WouldBlock):
                messages.receive_nowait()
            await service.call("say", ["last"])
            assert await messages.receive() == ServiceMessage(4, "last")
            await service.stop()
            for receive in (messages.receive, messages.receive_many):
                with pytest.raises(trio.EndOfChannel):
                    await receive()
            with pytest.raises(trio.EndOfChannel):
                messages.receive_nowait()
        with pytest.raises(trio.ClosedResourceError):
            await messages.receive()


async def test_a_slow_reader_holds_up_the_process_and_loses_nothing(
    world: World, world_clock: MockClock | None
) -> None:
    entry = world.entry(STEADY)
    async with (
        world.quiet_worker(limits=Limits(inbox_messages=4)) as worker,
        open_service(worker, entry) as service,
        trio.open_nursery() as nursery,
    ):
        messages = service.messages()
        nursery.start_soon(service.call, "say", list(range(1000)))
        found = [(await messages.receive()).payload]
        if world.is_virtual:
            await wait_all_tasks_blocked()
            assert service.process is not None
            assert service.process.statistics().messages_received < 50
        found += [(await messages.receive()).payload for _ in range(999)]
        assert found == list(range(1000))


async def test_a_channel_that_nobody_reads_keeps_the_messages_of_sixteen_ended_processes(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, restart=ALWAYS) as (service, _):
        messages = service.messages()
        for generation in range(1, 21):
            await service.call("say", [generation, generation])
            await crash(service)
        await service.call("say", ["now"])
        with pytest.raises(LaggedError) as caught:
            await messages.receive()
        assert caught.value.missed == 8
        found = [(await messages.receive()).generation for _ in range(33)]
        assert found == [number for number in range(5, 21) for _ in range(2)] + [21]
        messages.close()
        messages.close()
        with pytest.raises(trio.ClosedResourceError):
            messages.receive_nowait()
        assert repr(messages).startswith("<ServiceMessageChannel closed")


async def test_who_waits_for_a_message_hears_of_the_next_process_and_of_the_end(
    world: World, world_clock: MockClock | None
) -> None:
    found: list[object] = []

    async def read(service: Service) -> None:
        found.extend([(message.generation, message.payload) async for message in service.messages()])

    async with opened(world, restart=QUICK) as (service, _), trio.open_nursery() as nursery:
        nursery.start_soon(read, service)
        await crash(service)
        await service.call("say", ["hello"])
        await service.stop()
    assert found == [(2, "hello")]


async def test_the_messages_of_a_process_that_has_ended_are_still_there_for_who_comes_later(
    world: World, world_clock: MockClock | None
) -> None:
    entry = world.entry(STEADY)
    async with world.quiet_worker() as worker, serving(worker, entry, restart=RestartPolicy("never")) as (service, log):
        await service.call("say", ["hello"])
        await crash(service)
        await log.wait("stopped", 1)
        assert [message async for message in service.messages()] == [ServiceMessage(1, "hello")]


# ---- events


async def test_events_come_through_a_channel_too_and_end_with_the_service(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world, restart=QUICK) as (service, log):
        events = service.events()
        await crash(service)
        await log.wait("running", 2)
        await service.stop()
        assert [event async for event in events] == log.events
        assert [event async for event in service.events()] == []
    assert repr(log.events[0]).startswith("<ServiceEvent ended generation=1 ")


# ---- leaving the block


async def test_an_error_of_the_block_leaves_it_bare(world: World, world_clock: MockClock | None) -> None:
    with pytest.raises(KeyError):
        async with opened(world) as (service, _):
            await service.call("who")
            raise KeyError
    assert world.reasons() == [("stopped", "stopped")]


@pytest.mark.parametrize("seconds", [0.0, 0.01, 1.0])
async def test_a_cancelled_block_leaves_nothing(world: World, world_clock: MockClock | None, seconds: float) -> None:
    with trio.move_on_after(seconds):
        async with opened(world, restart=ALWAYS) as (service, _):
            while True:
                await crash(service)
    assert world.reasons()[-1:] in ([], [("stopped", "stopped")], [("failed", "failed")])


async def test_a_cancelled_block_can_use_the_service_until_it_is_left(
    world: World, world_clock: MockClock | None
) -> None:
    with trio.CancelScope() as scope:
        async with opened(world, restart=QUICK) as (service, _):
            scope.cancel()
            with trio.CancelScope(shield=True):
                await crash(service)
                assert await service.call("who") is not None
                assert service.generation == 2


async def test_an_error_of_the_block_wins_over_a_service_that_has_given_up(
    world: World, world_clock: MockClock | None
) -> None:
    with pytest.raises(KeyError) as caught:
        async with opened(world, CRASHES, restart=QUICK):
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("clean-up")
    contexts = []
    context = caught.value.__context__
    while context is not None:
        contexts.append(type(context))
        context = context.__context__
    assert ServiceGaveUpError in contexts


async def test_a_service_that_gives_up_leaves_nested_blocks_as_an_error_that_can_be_caught(
    world: World, world_clock: MockClock | None
) -> None:
    """Escalation is nesting."""
    crashes = world.entry(CRASHES, "crashes.py")
    async with working(world, STEADY) as (worker, entry), serving(worker, entry) as (outer, _):
        with pytest.raises(ServiceGaveUpError):
            async with open_service(worker, crashes, restart=QUICK), trio.open_nursery():
                await trio.sleep_forever()
        assert await outer.call("who") is not None


async def test_a_kill_while_the_block_is_left_skips_the_grace_period(
    world: World, world_clock: MockClock | None
) -> None:
    """A second Ctrl-C does that; see `NurseryScope`."""

    async def kill(service: Service) -> None:
        await world.wait_state("stopping")
        service._status.unit.hurry()

    async with trio.open_nursery() as nursery, opened(world, STUBBORN, grace_period=20) as (service, _):
        began = trio.current_time()
        nursery.start_soon(kill, service)
    assert trio.current_time() - began < 10


async def test_a_second_stop_can_shorten_the_grace_period(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, STUBBORN, grace_period=20) as (service, _), trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(service.stop)
        await world.wait_state("stopping")
        await service.stop(grace=0.1)
        assert trio.current_time() - began < 10
        await service.stop()


async def test_a_service_ends_with_its_worker(world: World, world_clock: MockClock | None) -> None:
    entry = world.entry(STEADY)
    leave = trio.Event()

    async with trio.open_nursery() as nursery:
        worker = await nursery.start(world.have_worker, leave)
        async with serving(worker, entry, restart=ALWAYS, key="a") as (service, log):
            leave.set()
            await log.wait("stopped", 1)
            with pytest.raises(trio.ClosedResourceError, match="its worker has been closed"):
                await service.wait_running()
        with pytest.raises(trio.ClosedResourceError):
            async with open_service(worker, entry):
                pytest.fail("it was entered")


async def test_a_service_that_waits_for_its_next_start_when_its_worker_closes_says_so(
    world: World, world_clock: MockClock | None
) -> None:
    entry = world.entry(STEADY)
    leave = trio.Event()

    async with trio.open_nursery() as nursery:
        worker = await nursery.start(world.have_worker, leave)
        with pytest.raises(trio.ClosedResourceError, match="is closed"):
            async with serving(worker, entry, restart=RestartPolicy(delay=20)) as (service, log):
                await crash(service)
                await log.wait("restart_scheduled", 1)
                began = trio.current_time()
                leave.set()
                await trio.sleep_forever()
        assert trio.current_time() - began < 10


@pytest.mark.parametrize("steps", range(1, 120, 3))
async def test_a_block_that_is_left_at_any_step_leaves_nobody_waiting(
    virtual_world: World, autojump_clock: MockClock, steps: int
) -> None:
    ends: list[object] = []

    async def use(call: Callable[..., Awaitable[object]], *arguments: object) -> None:
        try:
            ends.append(await call(*arguments))
        except Exception as error:
            ends.append(error)

    async def go_over(messages: AsyncIterator[object]) -> None:
        async for _ in messages:
            pass

    async with trio.open_nursery() as nursery, working(virtual_world) as (worker, entry):
        async with serving(worker, entry, restart=ALWAYS, key="a") as (service, _):
            nursery.start_soon(use, go_over, service.messages())
            nursery.start_soon(use, go_over, service.events())
            nursery.start_soon(use, service.restart)
            nursery.start_soon(use, service.call, "end", "fail")
            nursery.start_soon(use, service.call, "who")
            nursery.start_soon(use, service.send, 1)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
        with trio.fail_after(5):
            while len(ends) < 6:
                await trio.sleep(0.1)
        assert await live(worker) == []
        await (await worker.backend_processes.spawn(entry, key="a")).stop()
    allowed = (trio.ClosedResourceError, trio.BrokenResourceError, ProcessLostError, str)
    assert all(end is None or isinstance(end, allowed) for end in ends), ends


async def test_who_opens_a_service_hears_of_its_first_end_however_soon_that_is(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with working(virtual_world, CRASHES) as (worker, entry):
        for _ in range(20):
            async with serving(worker, entry, restart=RestartPolicy("never")) as (_, log):
                await log.wait("stopped", 1)
            assert log.kinds() == ["ended", "stopped"]
