"""Plays a scenario of services with a real host in virtual time, and writes down what comes of it.

The lines of the log, besides those of `stage`: `open`, `opened`, `leaving` and `left` are about the block of a service,
and `told` is what an event of it says; `event` is what the host says of a process; `on_start` and `prepared` are about
the function of that name; `asked` and `outcome` are about what was asked; `worker leaving` and `worker left` about the
worker. In place of a worker each line has the number of the service, and -1 for strangers.
"""

from __future__ import annotations

import math
import random
from contextlib import AbstractAsyncContextManager
from signal import SIGKILL
from typing import Any

import attrs
import trio

import spindle_trio as spindle
from simulation.playing import EPOCH, Mishap, cancelled_at, leave_block, run_by_lot
from simulation.scenario import FOREVER, Act, Moment, Part, method_of
from simulation.services_scenario import (
    KIND,
    OF_A_SERVICE,
    OF_STRANGERS,
    Ask,
    GroupPlan,
    ServicePlan,
    ServicesScenario,
    options_of,
    service_of,
)
from simulation.stage import Log, StagedLaunch, StagedProcess, StageLauncher
from spindle_trio.abc import ExitStatus, LaunchedProcess, LaunchOrder
from support.worker_protocol import memory_ends

STRANGER = -1
"""Stands for a service in lines about strangers."""

LAGGED = 0
"""Stands for a generation where messages were dropped."""

FIRST_PROBE = 10_000
"""The number of the first probe that nobody has drawn."""


@attrs.frozen
class Told:
    """What an event of a service says."""

    kind: str
    generation: int
    failures: int
    seconds: float | None


@attrs.frozen
class Final:
    """How a block was left, and what the service was then."""

    outcome: tuple[object, ...]
    state: str | None
    failures: int


class PreparationError(Exception):
    """What an `on_start` raises."""


def play_services(scenario: ServicesScenario, seed: int) -> Log:
    """Play it once, with Trio's scheduler and the jitter seeded, and return the log."""
    player = _Player(scenario)
    generator = random.getstate()
    random.seed(seed)
    try:
        run_by_lot(player.play, seed, player.log)
    finally:
        random.setstate(generator)
    return player.log


class _Launcher(StageLauncher):
    """Launches the lives of services, one after another, and strangers."""

    def __init__(self, scenario: ServicesScenario, log: Log) -> None:
        handlers = {number: ask.handler for number, ask in enumerate(scenario.asks)}
        super().__init__({}, handlers, log)
        self.scenario = scenario
        self.numbers: dict[str, int] = {}
        """Process id → number."""
        self.ids: dict[int, str] = {}
        """Service → the id of its last process."""
        self.launched: dict[int, int] = {}
        """Service → how many there were."""
        for number in range(len(scenario.services)):
            self._parts = {**self._parts, service_entry(number): (number, number, Part())}

    def add(self, number: int, part: Part) -> str:
        """Take in a stranger; returns its entry."""
        entry = f"stranger-{number}"
        self._parts = {**self._parts, entry: (OF_STRANGERS + number, STRANGER, part)}
        return entry

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        number, service, part = self._parts[order.entry.entry]
        if service != STRANGER:
            generation = self.launched[service] = self.launched.get(service, 0) + 1
            part = self.scenario.services[service].life(generation).part
            number = service * OF_A_SERVICE + generation
            self.ids[service] = order.process_id
        self.numbers[order.process_id] = number
        return StagedLaunch(StagedProcess(order, part, number, service, self._handlers, self._log), self.live)


class _Player:
    def __init__(self, scenario: ServicesScenario) -> None:
        self.scenario = scenario
        self.log = Log()
        self.launcher = _Launcher(scenario, self.log)
        self.services: dict[int, spindle.Service] = {}
        self.worker: spindle.Worker
        self.asked: trio.Nursery
        self._done = trio.Event()
        self._probes = iter(range(FIRST_PROBE, 10**6))

    async def play(self) -> None:
        serial = iter(range(10**9))
        with trio.move_on_after(FOREVER) as patience:
            async with (
                spindle.open_host(
                    self.launcher,
                    environment={},
                    new_process_id=lambda: f"process-{next(serial)}",
                    wall_clock=lambda: EPOCH,
                ) as host,
                trio.open_nursery() as nursery,
            ):
                await nursery.start(self._keep_worker, host)
                async with trio.open_nursery() as self.asked:
                    if self.scenario.group is not None:
                        self.asked.start_soon(self._keep_group, self.scenario.group)
                    else:
                        for number, plan in enumerate(self.scenario.services):
                            self.asked.start_soon(self._keep_service, number, plan)
                    for number, ask in enumerate(self.scenario.asks):
                        self.asked.start_soon(self._carry_out, number, ask)
                self._done.set()
            if self.launcher.live:
                self.log.remarks.append(f"left behind: {sorted(self.launcher.live)}")
        if patience.cancelled_caught:
            self.log.remarks.append("it goes on for ever")

    async def _keep_worker(self, host: spindle.Host, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            if self.scenario.is_far:
                near, far = memory_ends()
                nursery.start_soon(host.serve_worker, near, "far")
                block = spindle.connect_worker(far)
            else:
                block = host.open_worker("near", user_id="ada")
            async with block as self.worker:
                self.worker.backend_processes.on_lifecycle(self._note_event)
                task_status.started()
                with trio.move_on_at(self.scenario.worker_left_at):
                    await self._done.wait()
                self.log.note(STRANGER, "worker leaving", 0)
        self.log.note(STRANGER, "worker left", 0)

    def _note_event(self, event: spindle.LifecycleEvent) -> None:
        number = self.launcher.numbers.get(event.process_id)
        assert event.metadata is not None, "each has its service in its metadata"
        service = int(str(event.metadata["service"]))
        if number is None:
            return  # it has not been launched yet, or never will
        self.log.note(service, "event", number, (event.state.value, event.exit_reason and event.exit_reason.value))
        if event.state.is_terminal and service_of(number) is not None:
            self._probe(service, 0.0)

    # ---- services

    async def _keep_service(self, number: int, plan: ServicePlan) -> None:
        await trio.sleep_until(plan.at)
        self.log.note(number, "open", number)
        outcome: tuple[object, ...] = ("cancelled",)
        with trio.CancelScope(deadline=cancelled_at(plan.block)):
            try:
                async with self._open(number, plan) as service:
                    self.services[number] = service
                    service.on_event(lambda event: self._note_told(number, event))
                    self.asked.start_soon(self._read, number, service.messages())
                    self.log.note(number, "opened", number, service.state)
                    try:
                        await leave_block(plan.block)
                    finally:
                        self.log.note(number, "leaving", number)
                outcome = ("returned",)
            except (Mishap, PreparationError, *ERRORS) as error:
                outcome = _described(error)
        seen = self.services.get(number)
        final = Final(outcome, None, 0) if seen is None else Final(outcome, seen.state, seen.failures)
        self.log.note(number, "left", number, final)

    def _open(self, number: int, plan: ServicePlan) -> AbstractAsyncContextManager[spindle.Service]:
        options: Any = options_of(plan.policy)
        return spindle.open_service(
            self.worker, service_entry(number), restart=spindle.RestartPolicy(**options), **self._options(number, plan)
        )

    def _options(self, number: int, plan: ServicePlan) -> Any:
        """Give what each service is opened or started with."""

        async def on_start(process: spindle.ProcessHandle) -> None:
            process_number = self.launcher.numbers[process.process_id]
            life = plan.life(process_number % OF_A_SERVICE)
            self.log.note(number, "on_start", process_number)
            how = "cancelled"
            try:
                await trio.sleep(life.on_start_seconds)
                how = life.on_start or "return"
                if how == "raise":
                    raise PreparationError
            finally:
                self.log.note(number, "prepared", process_number, how)

        return {
            "key": plan.key,
            "kind": KIND,
            "user_id": "ada",
            "metadata": {"service": number},
            "on_start": on_start if plan.has_on_start else None,
            "startup_timeout": plan.startup_timeout,
            "heartbeat_timeout": math.inf,
            "grace_period": plan.grace_period,
            "replace_existing": plan.replaces,
        }

    # ---- a group

    async def _keep_group(self, plan: GroupPlan) -> None:
        await trio.sleep_until(plan.at)
        outcome: tuple[object, ...] = ("cancelled",)
        options: Any = options_of(plan.policy)
        strategy: Any = plan.strategy
        with trio.CancelScope(deadline=cancelled_at(plan.block)):
            try:
                async with spindle.open_group(
                    self.worker, strategy=strategy, restart=spindle.RestartPolicy(**options)
                ) as group:
                    try:
                        with trio.move_on_at(plan.block.left_at):
                            for number, member in enumerate(self.scenario.services):
                                await self._add(group, number, member, options)
                        await leave_block(plan.block)
                    finally:
                        self.log.note(STRANGER, "leaving group", 0)
                outcome = ("returned",)
            except (Mishap, *ERRORS) as error:
                outcome = _described(error)
        self.log.note(STRANGER, "left group", 0, Final(outcome, None, group.failures))

    async def _add(self, group: spindle.Group, number: int, plan: ServicePlan, options: Any) -> None:
        """Start a member; a group goes on without one that does not start."""
        own = options | {"when": plan.policy.when, "max_lifetime": plan.policy.max_lifetime}
        self.log.note(number, "open", number)
        outcome: tuple[object, ...] = ("cancelled",)
        try:
            service = self.services[number] = await group.start(
                service_entry(number),
                name=f"member-{number}",
                restart=spindle.RestartPolicy(**own),
                **self._options(number, plan),
            )
            outcome = ("running",)
            service.on_event(lambda event: self._note_told(number, event))
        except (PreparationError, *ERRORS) as error:
            outcome = _described(error)
        finally:
            self.log.note(number, "opened", number, outcome)

    def _note_told(self, number: int, event: spindle.ServiceEvent) -> None:
        told = Told(event.kind.value, event.generation, event.failures, event.seconds)
        self.log.note(number, "told", number, told)
        if event.kind == "restart_scheduled":
            assert event.seconds is not None, "it says so"
            self._probe(number, event.seconds / 2)

    async def _read(self, number: int, messages: spindle.MessageReceiveChannel[spindle.ServiceMessage]) -> None:
        read = self.log.channel_messages[number] = []
        while True:
            try:
                message = await messages.receive()
            except trio.EndOfChannel:
                return
            except spindle.LaggedError as error:
                read.append((LAGGED, error.missed))
            else:
                read.append((message.generation, message.payload))
                await trio.sleep(self.scenario.services[number].reading_seconds)

    # ---- what is asked

    def _probe(self, service: int, seconds: float) -> None:
        """Ask for the key of a service in so many seconds."""
        if self.scenario.services[service].key is not None:
            part = Part(plan=(Moment(0.0, (Act("ready"), Act("complete"), Act("exit"))),))
            ask = Ask(at=trio.current_time() + seconds, what="probe", service=service, part=part)
            self.asked.start_soon(self._carry_out, next(self._probes), ask)

    async def _carry_out(self, number: int, ask: Ask) -> None:
        await trio.sleep_until(ask.at)
        self.log.note(ask.service, "asked", number, ask.what)
        outcome: tuple[object, ...] = ("cancelled",)
        with trio.CancelScope(deadline=ask.cancelled_at):
            try:
                outcome = await self._ask(number, ask)
            except ERRORS as error:
                outcome = _described(error)
        self.log.note(ask.service, "outcome", number, outcome)

    async def _ask(self, number: int, ask: Ask) -> tuple[object, ...]:
        processes = self.worker.backend_processes
        service = self.services.get(ask.service)
        match ask.what:
            case "probe" | "replace":
                await processes.spawn(
                    self.launcher.add(number, ask.part),
                    key=self.scenario.services[ask.service].key,
                    kind=KIND,
                    user_id="ada",
                    metadata={"service": STRANGER},
                    heartbeat_timeout=math.inf,
                    replace_existing=ask.what == "replace",
                )
            case "stop process" if ask.service in self.launcher.ids:
                await processes.stop(self.launcher.ids[ask.service], grace=ask.grace)
            case "die":
                self._die(ask.service)
            case _ if service is None:
                return ("no service",)
            case "stop":
                await service.stop(grace=ask.grace)
            case "restart":
                await service.restart()
            case "wait":
                return "got", self.launcher.numbers[(await service.wait_running()).process_id]
            case "call":
                return "answered", await service.call(method_of(number), number, timeout=ask.timeout)
            case _:
                return ("no service",)
        return ("returned",)

    def _die(self, service: int) -> None:
        process = self.launcher.live.get(self.launcher.numbers.get(self.launcher.ids.get(service, ""), -1))
        if process is not None and not process.has_exited():
            act = Act("die of a signal", int(SIGKILL))
            self.log.note(service, "act", process.number, (act,))
            process.end(ExitStatus(signal=act.value))


ERRORS = (
    spindle.SpindleError,
    trio.ClosedResourceError,
    trio.BrokenResourceError,
)


def _described(error: Exception) -> tuple[object, ...]:
    if isinstance(error, spindle.ServiceGaveUpError):
        return type(error).__name__, error.attempts
    return (type(error).__name__,)


def service_entry(number: int) -> str:
    """Name the entry of a service."""
    return f"service-{number}"
