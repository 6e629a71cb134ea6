"""Rows about heartbeats: the cost of one, the lateness of the watchdog, and a thousand children that beat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from time import perf_counter, process_time

import trio

import spindle_trio as spindle
from bench.hosts import default_launcher, lean_launcher, open_host
from bench.instruments import WakeUps, ancestors, processor_seconds, unique_set_size
from bench.measuring import Measurement, Race, Role, Settings
from spindle_trio.abc import LaunchedProcess, Launcher, LaunchOrder, ResolvedEntry

HEARTBEAT = "heartbeat(), blocking entry"
HEARTBEAT_ASYNC = "heartbeat(), async entry"
STORE_FLOOR = "a store to a page, and reading the clock"
SOCKET_BEAT = "a beat sent over a socket"
LOOP_FLOOR = "a turn of the loop around each"
WAKE_UPS = "wake-ups of the host for 100,000 beats"

LATENESS = "from the deadline to the kill, or to the request for its stacks by which it ends"
LATENESS_TO_END = "from the deadline to the terminal event"
TIMER_FLOOR = "a bare trio.sleep_until under the same load"

HOST_SHARE = "host's share of one core"
SERVER_SHARE = "fork server's share of one core"
CHILD_MEMORY = "memory of a child (USS)"
FALSE_KILLS = "processes that did not live on"

WINDOW_SECONDS = 15
"""The heartbeat timeout of these processes: in this time the watchdog looks at each at least once."""


async def one_heartbeat(settings: Settings) -> Measurement:
    """Time many in a row, in the child, and count how often the host wakes up meanwhile."""
    count = settings.amount(100_000, 1_000)
    wake_ups: dict[str, list[float]] = {"heartbeat": [], "nothing": []}
    async with (
        open_host(default_launcher()) as running,
        running.processes.open("beats_blocking.py") as blocking,
        running.processes.open("beats_async.py") as asynchronous,
        Race("µs", settings.rounds(60, 20)) as race,
    ):
        answers, async_answers = blocking.messages(), asynchronous.messages()

        async def in_blocking(what: str) -> float:
            with WakeUps() as woken:
                await blocking.send([what, count])
                seconds = _seconds(await answers.receive())
            if what in wake_ups:
                wake_ups[what].append(woken.count)
            return 1e6 * seconds / count

        async def in_async() -> float:
            await asynchronous.send(count)
            return 1e6 * _seconds(await async_answers.receive()) / count

        race.add(Role.OURS, HEARTBEAT, lambda: in_blocking("heartbeat"))
        race.add(Role.OURS, HEARTBEAT_ASYNC, in_async)
        race.add(Role.FLOOR, STORE_FLOOR, lambda: in_blocking("store"))
        race.add(Role.PEER, SOCKET_BEAT, lambda: in_blocking("socket"))
        # As long a silence, so that what the question and the answer cost can be taken off.
        race.add(Role.FLOOR, LOOP_FLOOR, lambda: in_blocking("nothing"))
        measured = await race.run()
    pairs = zip(wake_ups["heartbeat"], wake_ups["nothing"], strict=True)
    measured.add(WAKE_UPS, Role.OURS, "more than for none", [beating - silent for beating, silent in pairs])
    return measured


async def watchdog(settings: Settings) -> Measurement:
    """Let processes fall silent while the host is busy for 90 % of the time, and note when each kill comes.

    The deadlines lie 20 ms apart, so that no kill waits for another one.
    """
    count = settings.rounds(300, 100)
    launcher = _NotingKills(default_launcher())
    to_end: list[float] = []
    timers: list[float] = []
    async with open_host(launcher, max_processes=count) as running:
        first = 0.5 + 0.01 * count
        timeouts = [first + 0.02 * number for number in range(count)]

        def note_end(event: spindle.LifecycleEvent) -> None:
            if event.state is spindle.ProcessState.TIMED_OUT:
                to_end.append(1000 * (trio.current_time() - launcher.deadlines[event.process_id]))

        running.processes.on_lifecycle(note_end)
        for timeout in timeouts:
            handle = await running.processes.spawn("silent.py", heartbeat_timeout=timeout)
            launcher.timeouts[handle.process_id] = timeout
        deadline = trio.current_time() + timeouts[-1] + 2
        began, began_cpu = perf_counter(), process_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_be_busy)
            nursery.start_soon(_note_lateness, timers)
            with trio.move_on_at(deadline):
                while len(to_end) < count:
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        share = (process_time() - began_cpu) / (perf_counter() - began)
    measured = Measurement()
    measured.add(LATENESS, Role.OURS, "ms", launcher.lateness)
    measured.add(LATENESS_TO_END, Role.OURS, "ms", to_end)
    measured.add(TIMER_FLOOR, Role.FLOOR, "ms", timers)
    measured.notes.append(f"the host used {share:.0%} of a core meanwhile")
    if len(to_end) < count:
        measured.notes.append(f"{count - len(to_end)} processes were not killed in time")
    return measured


async def thousand(settings: Settings) -> Measurement:
    """Let a thousand real processes beat once a second, with the default heartbeat timeout."""
    count = settings.amount(1_000, 10)
    windows = settings.rounds(4, 1)
    seconds = settings.amount(WINDOW_SECONDS, 1)
    shares: list[float] = []
    server_shares: list[float] = []
    async with open_host(lean_launcher(), max_processes=count) as running:
        began = perf_counter()
        handles = [await running.processes.spawn("one_hertz.py") for _ in range(count)]
        spawned = perf_counter() - began
        servers = ancestors(handles[0].pid)
        for _ in range(windows):
            wall, used, servers_used = perf_counter(), process_time(), sum(map(processor_seconds, servers))
            await trio.sleep(seconds)
            elapsed = perf_counter() - wall
            shares.append(100 * (process_time() - used) / elapsed)
            server_shares.append(100 * (sum(map(processor_seconds, servers)) - servers_used) / elapsed)
        alive = await running.processes.list(state=spindle.ProcessState.RUNNING)
        sizes = [unique_set_size(handle.pid) for handle in handles[:: max(1, count // 100)]]
        server_sizes = [f"{unique_set_size(pid):.1f} MiB" for pid in servers]
    measured = Measurement()
    measured.add(HOST_SHARE, Role.OURS, "%", shares)
    measured.add(SERVER_SHARE, Role.OURS, "%", server_shares)
    measured.add(CHILD_MEMORY, Role.OURS, "MiB", sizes)
    measured.add(FALSE_KILLS, Role.OURS, "of them", [float(count - len(alive))])
    measured.notes.append(
        f"{count} processes beat at 1 Hz for {windows * seconds} s; a sample of the shares is {seconds} s; spawned one "
        f"after another in {spawned:.1f} s; memory of what stands between host and child: {', '.join(server_sizes)}"
    )
    return measured


def _seconds(answer: object) -> float:
    assert isinstance(answer, float)
    return answer


BUSY_SECONDS, IDLE_SECONDS, STEP_SECONDS = 0.009, 0.0005, 0.0005


async def _be_busy() -> None:
    """Use 90 % of the host's time, in steps of half a millisecond.

    It takes nine milliseconds of steps, then sleeps for half a millisecond, which takes a whole one: the timer of
    Trio's idle wait is no finer than that.
    """
    while True:
        until = perf_counter() + BUSY_SECONDS
        while perf_counter() < until:
            step_until = perf_counter() + STEP_SECONDS
            while perf_counter() < step_until:
                pass
            await trio.lowlevel.checkpoint()
        await trio.sleep(IDLE_SECONDS)


async def _note_lateness(lateness: list[float]) -> None:
    while True:
        deadline = trio.current_time() + 0.02
        await trio.sleep_until(deadline)
        lateness.append(1000 * (trio.current_time() - deadline))


class _NotingKills(Launcher):
    """Wraps a launcher, and notes how late after its heartbeat deadline each process is killed."""

    def __init__(self, inner: Launcher) -> None:
        self._inner = inner
        self.timeouts: dict[str, float] = {}
        self.deadlines: dict[str, float] = {}
        self.lateness: list[float] = []

    async def start(self) -> None:
        await self._inner.start()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        return self._inner.resolve(entry, root)

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        return self._launch(order)

    @asynccontextmanager
    async def _launch(self, order: LaunchOrder) -> AsyncIterator[LaunchedProcess]:
        async with self._inner.launch(order) as process:
            kill, request_dump = process.kill, process.request_dump

            def note() -> None:
                if order.process_id in self.timeouts and order.process_id not in self.deadlines:
                    deadline = process.last_heartbeat() + self.timeouts[order.process_id]
                    self.deadlines[order.process_id] = deadline
                    self.lateness.append(1000 * (trio.current_time() - deadline))

            def note_and_kill() -> None:
                note()
                kill()

            def note_and_request_dump() -> bool:
                note()
                return request_dump()

            process.kill = note_and_kill  # type: ignore[method-assign]  # of this one process
            process.request_dump = note_and_request_dump  # type: ignore[method-assign]  # by which it ends
            yield process
