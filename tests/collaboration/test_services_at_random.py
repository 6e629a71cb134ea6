"""Random lives of a service and random disturbances, in virtual time: what holds whatever happens.

No two of its processes live at a time, and its key is never free while it may start another. Its events tell one story.
What somebody has stopped or replaced is never started again. Whoever waits is answered, and nothing is left.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from spindle_trio import (
    DuplicateKeyError,
    LifecycleEvent,
    ProcessHandle,
    RestartPolicy,
    Service,
    ServiceEvent,
    ServiceGaveUpError,
    SpindleError,
    Worker,
    open_host,
    open_service,
)
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher

SECONDS = st.sampled_from([0.0, 0.5, 1.0, 2.0])
"""Few, so that much happens at the same moment."""

GRACE = 0.5


@attrs.frozen
class Life:
    """What one process does."""

    ready_after: float
    handshake: float
    """Seconds that `on_start` takes; less than 0: it raises."""
    lives: float
    end: str
    """`fail`, `complete`, or `stay`."""
    last_word: str
    """What it does when it is asked to stop."""


LIVES = st.lists(
    st.builds(
        Life,
        ready_after=SECONDS,
        handshake=st.sampled_from([-1.0, 0.0, 0.0, 0.0, 0.5]),
        lives=SECONDS,
        end=st.sampled_from(["fail", "fail", "complete", "stay"]),
        last_word=st.sampled_from(["return", "complete", "fail", "ignore"]),
    ),
    min_size=1,
    max_size=6,
)
"""Of one generation after another; the last is repeated."""

DEEDS = st.lists(
    st.tuples(
        SECONDS,
        st.integers(0, 12),
        st.sampled_from(["restart", "restart", "stop process", "stop", "replace", "probe", "probe", "use"]),
    ),
    max_size=6,
)
"""What somebody else does, after which pause and after how many steps more."""

POLICIES = st.builds(
    RestartPolicy,
    st.sampled_from(["never", "on_failure", "always"]),
    delay=st.sampled_from([0.5, 1.0]),
    jitter=st.just(0.0),
    stable_after=st.just(1.0),
    give_up_after=st.sampled_from([None, None, 2, 5]),
)


class World:
    """Processes, and what was seen of them and of their service."""

    def __init__(self, lives: list[Life], key: str | None) -> None:
        self.lives = lives
        self.key = key
        self.live: set[str] = set()
        self.foreign: set[str] = set()
        self.stopping: set[str] = set()
        self.launched = 0
        self.starts = 0
        self.events: list[ServiceEvent] = []
        self.must_end: int | None = None
        """How many processes of the service there may be at most, since somebody has ended it."""
        self.raised: list[BaseException] = []

    def life(self, number: int) -> Life:
        return self.lives[min(number, len(self.lives)) - 1]

    async def entry(self, process: ProcessContext) -> None:
        if process.payload == "foreign":
            process.ready()
            process.beat_while_running()
            await trio.sleep_forever()
        self.starts += 1
        life = self.life(self.starts)
        process.beat_while_running()
        await trio.sleep(life.ready_after)
        process.ready()
        with trio.move_on_after(math.inf if life.end == "stay" else life.lives):
            await process.wait_stop()
            if life.last_word == "ignore":
                await trio.sleep_forever()
            if life.last_word != "return":
                getattr(process, life.last_word)("last word")
            return
        getattr(process, life.end)("by itself")

    async def on_start(self, process: ProcessHandle) -> None:
        life = self.life(self.starts)
        if life.handshake < 0 and self.starts > 1:
            raise KeyError(process.process_id)
        await trio.sleep(max(0.0, life.handshake))

    def note(self, event: LifecycleEvent) -> None:
        """Hear of the processes with the service's kind."""
        if event.kind != "service":
            return
        (self.live.discard if event.state.is_terminal else self.live.add)(event.process_id)
        if event.metadata is not None:
            self.foreign.add(event.process_id)
        elif event.state == "starting":
            self.launched += 1
        elif event.state == "stopping":
            self.stopping.add(event.process_id)
        assert len(self.live) <= 1, "two processes at a time"

    def note_service(self, event: ServiceEvent) -> None:
        self.events.append(event)

    async def do(self, worker: Worker, service: Service, deeds: list[tuple[float, int, str]]) -> None:
        async with trio.open_nursery() as nursery:
            for pause, steps, what in deeds:
                await trio.sleep(pause)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(self.try_to, getattr(self, what.replace(" ", "_")), worker, service)

    async def try_to(
        self, deed: Callable[[Worker, Service], Awaitable[None]], worker: Worker, service: Service
    ) -> None:
        try:
            await deed(worker, service)
        except (SpindleError, trio.ClosedResourceError, trio.BrokenResourceError) as error:
            self.raised.append(error)

    async def restart(self, worker: Worker, service: Service) -> None:
        with trio.move_on_after(20):  # its next processes may fail for ever
            await service.restart()

    async def stop(self, worker: Worker, service: Service) -> None:
        self.end(self.launched)
        await service.stop()

    async def stop_process(self, worker: Worker, service: Service) -> None:
        for process_id in self.live - self.foreign:
            launched = self.launched
            is_being_put_out = service.state == "starting" and service._status.unit.is_live
            if self.key is not None:
                self.end(launched)
            await worker.backend_processes.stop(process_id)
            # Without a key nobody can know of a second stop, nor of one in the moment of an end.
            if process_id in self.stopping and not is_being_put_out:
                self.end(launched)

    async def replace(self, worker: Worker, service: Service) -> None:
        if self.key is not None:
            handle = await self.spawn(worker, replace_existing=True)
            self.end(self.launched)
            await trio.sleep(0.5)
            await handle.stop()

    async def probe(self, worker: Worker, service: Service) -> None:
        """Nobody gets the key of a service that may start another process."""
        if self.key is not None:
            try:
                handle = await self.spawn(worker)
            except DuplicateKeyError:
                return
            self.end(self.launched)
            await handle.stop()

    async def use(self, worker: Worker, service: Service) -> None:
        with trio.move_on_after(1.0):
            process = await service.wait_running()
            assert process.process_id in self.live

    async def spawn(self, worker: Worker, **options: Any) -> ProcessHandle:
        return await worker.backend_processes.spawn(
            "entry.py", kind="service", key=self.key, payload="foreign", metadata={"foreign": True}, **options
        )

    def end(self, launched: int) -> None:
        """Note that there were so many processes of the service when somebody ended it, and may be no more."""
        self.must_end = launched if self.must_end is None else min(self.must_end, launched)

    def judge(self, service: Service) -> None:
        if self.must_end is not None:
            assert self.launched <= self.must_end
        assert service.state in ("stopped", "gave_up")
        assert service.process is None
        follows = {
            "started": {"running", "ended", "stopped"},
            "running": {"ended", "stopped"},
            "ended": {"restart_scheduled", "stopped", "gave_up"},
            "restart_scheduled": {"started", "stopped"},
        }
        for earlier, later in zip(self.events, self.events[1:], strict=False):
            assert later.kind in follows[earlier.kind], (earlier, later)
            assert later.at >= earlier.at
            assert later.generation == earlier.generation + (later.kind == "started")
        assert self.events[-1].kind in ("stopped", "gave_up")


@given(LIVES, DEEDS, POLICIES, st.sampled_from([None, "a", "a"]), SECONDS)
def test_whatever_happens_a_service_lives_once_and_ends_for_good(
    lives: list[Life], deeds: list[tuple[float, int, str]], policy: RestartPolicy, key: str | None, pause: float
) -> None:
    world = World(lives, key)

    async def main() -> None:
        launcher = MemoryLauncher({"entry.py": world.entry})
        with trio.fail_after(200):
            async with (
                open_host(launcher, grace_period=GRACE) as host,
                host.open_worker("tests", user_id="ada") as worker,
            ):
                worker.backend_processes.on_lifecycle(world.note)
                try:
                    async with open_service(
                        worker, "entry.py", kind="service", key=key, restart=policy, on_start=world.on_start
                    ) as service:
                        service.on_event(world.note_service)
                        await world.do(worker, service, deeds)
                        await trio.sleep(pause)
                except ServiceGaveUpError:
                    pass
                except SpindleError:
                    return  # the first start has failed
                world.judge(service)
                assert await worker.backend_processes.list() == []
                if key is not None:
                    await world.spawn(worker)

    trio.run(main, clock=MockClock(autojump_threshold=0))
