"""Services and pools whose processes are stopped gracefully and followed by others when they use too much."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import spindle_trio as spindle
from spindle_trio import ResourceLimits, RestartPolicy, StreamChannel, connect_worker
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher, ScriptedChild

MIB = 1024 * 1024
ABOVE = ResourceLimits(memory=100 * MIB)
POLICY = RestartPolicy(delay=1, factor=2, jitter=0, stable_after=10, give_up_after=3)


class Generations:
    """The children of one entry, one launch after another; each is ready at once, and ends when it is asked to."""

    def __init__(self) -> None:
        self.children = [ScriptedChild() for _ in range(6)]
        self.reasons: list[str | None] = []
        self.begun_at: list[float] = []

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for child in self.children:
                await child.started()
                self.begun_at.append(trio.current_time())
                child.ready(protocol=2, calls=True)
                nursery.start_soon(self._obey, child)

    async def _obey(self, child: ScriptedChild) -> None:
        try:
            reason = await child.stop_requested()
        except AssertionError:
            return  # it has ended by itself
        self.reasons.append(reason)
        child.say_stopped()
        child.exit()


async def unmeasured(process: ProcessContext) -> None:
    process.ready()
    process.beat_while_running()
    await trio.sleep_forever()


@asynccontextmanager
async def a_worker(*generations: Generations, far: bool = False, **options: Any) -> AsyncIterator[spindle.Worker]:
    entries: dict[str, Any] = {f"{number}": those.children for number, those in enumerate(generations)}
    async with trio.open_nursery() as nursery:
        for those in generations:
            nursery.start_soon(those.run)
        async with spindle.open_host(MemoryLauncher({"unmeasured": unmeasured, **entries}), **options) as host:
            if far:
                ours, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(
                    functools.partial(host.serve_worker, StreamChannel(theirs), "far", root=None, user_id="ada")
                )
                async with connect_worker(StreamChannel(ours)) as worker:
                    yield worker
            else:
                async with host.open_worker("test", user_id="ada") as worker:
                    yield worker
        nursery.cancel_scope.cancel()


both = pytest.mark.parametrize("far", [False, True], ids=["here", "far"])
ASKED = {"heartbeat_timeout": math.inf, "restart_above": ABOVE}


@both
async def test_a_service_above_its_bound_is_stopped_gracefully_and_started_at_once(
    far: bool, autojump_clock: MockClock
) -> None:
    generations = Generations()
    async with (
        a_worker(generations, far=far) as worker,
        spindle.open_service(worker, "0", key="db", restart=POLICY, **ASKED) as service,
    ):
        generations.children[0].use(memory=100 * MIB)
        await trio.sleep(15)
        assert (service.generation, service.failures) == (1, 0)
        generations.children[0].use(memory=101 * MIB)
        at = trio.current_time()
        await service.wait_running()
        await trio.sleep(1)
        assert (service.generation, service.state, service.failures) == (2, "running", 0)
        assert generations.begun_at[1] - at <= 0.6
        assert generations.reasons == ["it is above restart_above: memory: 101 MiB used of 100 MiB"]


async def test_a_service_that_is_above_too_soon_has_failed_and_gives_up_in_the_end(autojump_clock: MockClock) -> None:
    generations = Generations()
    async with a_worker(generations) as worker:
        with pytest.raises(spindle.ServiceGaveUpError, match=r"it is above restart_above: memory: 101 MiB used of "):
            await use_too_much(generations, worker)


async def use_too_much(generations: Generations, worker: spindle.Worker) -> None:
    async with spindle.open_service(worker, "0", restart=POLICY, **ASKED) as service:
        for generation, delay in ((1, 1), (2, 2), (3, math.inf)):
            assert service.generation == generation
            generations.children[generation - 1].use(memory=101 * MIB)
            at = trio.current_time()
            await trio.sleep(delay + 0.7)
            assert generations.begun_at[generation] - at == pytest.approx(delay, abs=0.6)


async def test_a_wish_of_its_users_comes_before_a_bound(autojump_clock: MockClock) -> None:
    generations = Generations()
    async with (
        a_worker(generations) as worker,
        spindle.open_service(worker, "0", restart=POLICY, **ASKED) as service,
    ):
        generations.children[0].use(memory=101 * MIB)
        await service.restart("new settings")
        assert (generations.reasons, service.failures) == (["new settings"], 0)
        await trio.sleep(2)
        assert service.generation == 2
        generations.children[1].use(memory=101 * MIB)
        await service.stop("enough")
        assert generations.reasons == ["new settings", "enough"]


async def test_a_service_that_ends_while_it_is_looked_at_has_just_ended(autojump_clock: MockClock) -> None:
    generations = Generations()
    async with (
        a_worker(generations) as worker,
        spindle.open_service(worker, "0", restart=POLICY, **ASKED) as service,
    ):
        await trio.sleep(3.25)
        generations.children[0].complete()
        generations.children[0].exit()
        await trio.sleep(1)
        assert service.state == "stopped"
        assert service.generation == 1


async def test_where_nothing_is_known_the_log_says_so_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        a_worker() as worker,
        spindle.open_service(worker, "unmeasured", restart_above=ABOVE) as service,
    ):
        await trio.sleep(5)
        assert service.generation == 1
    (said,) = [record.getMessage() for record in caplog.records if "restart_above" in record.getMessage()]
    assert said.startswith("the service unmeasured: restart_above has no effect on memory, which is unknown here:")


# ---- groups


async def test_in_a_group_those_are_restarted_together_whom_a_failure_takes_along(autojump_clock: MockClock) -> None:
    first, second = Generations(), Generations()
    policy = RestartPolicy(stable_after=5)
    async with (
        a_worker(first, second) as worker,
        spindle.open_group(worker, strategy="rest_for_one", restart=policy) as group,
    ):
        one = await group.start("0", **ASKED)
        two = await group.start("1", heartbeat_timeout=math.inf)
        await trio.sleep(6)
        first.children[0].use(memory=101 * MIB)
        await trio.sleep(1)
        assert (one.generation, two.generation, group.failures) == (2, 2, 0)
        assert first.reasons == ["it is above restart_above: memory: 101 MiB used of 100 MiB"]
        assert second.reasons == ["the service 0 is started again"]


async def test_in_a_group_services_are_recycled_one_after_another(autojump_clock: MockClock) -> None:
    first, second = Generations(), Generations()
    async with (
        a_worker(first, second) as worker,
        spindle.open_group(worker, restart=RestartPolicy(stable_after=5)) as group,
    ):
        one = await group.start("0", **ASKED)
        two = await group.start("1", **ASKED)
        await trio.sleep(6)
        first.children[0].use(memory=101 * MIB)
        second.children[0].use(memory=101 * MIB)
        await trio.sleep(2)
        assert (one.generation, two.generation, group.failures) == (2, 2, 0)


async def test_in_a_group_one_that_is_above_too_soon_has_failed(autojump_clock: MockClock) -> None:
    generations = Generations()
    async with (
        a_worker(generations) as worker,
        spindle.open_group(worker, restart=POLICY) as group,
    ):
        one = await group.start("0", **ASKED)
        generations.children[0].use(memory=101 * MIB)
        await trio.sleep(0.75)
        assert (one.state, group.failures) == ("waiting", 1)
        await trio.sleep(1)
        assert (one.state, one.generation) == ("running", 2)


# ---- pools


async def test_a_process_of_a_pool_is_replaced_once_it_has_no_call(autojump_clock: MockClock) -> None:
    generations = Generations()
    async with (
        a_worker(generations) as worker,
        spindle.open_pool(worker, "0", size=1, **ASKED) as pool,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(pool.call, "work")
        await trio.sleep(0.1)
        first, second = generations.children[:2]
        call = await first.calls.next()
        first.use(memory=101 * MIB)
        await trio.sleep(3)
        assert generations.reasons == []
        first.calls.answer(call.call_id, 1)
        await trio.sleep(0.1)
        assert second.was_launched
        assert not first.is_alive
        second.use(memory=101 * MIB)
        await trio.sleep(1)
        assert not second.is_alive
        now = pool.statistics()
        assert (now.starts, now.recycled, now.failures) == (3, 2, 0)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"restart_above": ResourceLimits()}, r"^restart_above has no limit; type: restart_above=ResourceLimits\(mem"),
        ({"restart_above": ResourceLimits(cpus=1)}, "^restart_above takes memory, pids, cpu_seconds, not cpus$"),
        (
            {"restart_above": ResourceLimits(memory=1, run_seconds=9)},
            r"not run_seconds; RestartPolicy\(max_lifetime=…\) does that$",
        ),
        (
            {"restart_above": ResourceLimits(memory=512), "resource_limits": ResourceLimits(memory=512)},
            "^restart_above with memory=512 and resource_limits with memory=512 contradict each other: the process is ",
        ),
    ],
)
async def test_a_bound_that_makes_no_sense_is_refused(options: Any, said: str, autojump_clock: MockClock) -> None:
    async with a_worker() as worker, spindle.open_group(worker) as group:
        with pytest.raises(ValueError, match=said):
            spindle.open_service(worker, "unmeasured", **options)
        with pytest.raises(ValueError, match=said):
            spindle.open_pool(worker, "unmeasured", **options)
        with pytest.raises(ValueError, match=said):
            await group.start("unmeasured", **options)


async def test_what_is_never_started_again_is_not_recycled(autojump_clock: MockClock) -> None:
    never = RestartPolicy("never")
    async with a_worker() as worker, spindle.open_group(worker, restart=never) as group:
        with pytest.raises(ValueError, match="restart_above and a policy with when='never' contradict each other"):
            spindle.open_service(worker, "unmeasured", restart=never, restart_above=ABOVE)
        with pytest.raises(ValueError, match="restart_above and a policy with when='never' contradict each other"):
            await group.start("unmeasured", restart_above=ABOVE)


@pytest.mark.parametrize("bound", [512, {"memory": 512}, ResourceLimits])
async def test_a_bound_of_another_type_is_refused(bound: Any, autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        for call in (spindle.open_service, spindle.open_pool):
            with pytest.raises(TypeError, match="restart_above must be ResourceLimits or None"):
                call(worker, "unmeasured", restart_above=bound)
