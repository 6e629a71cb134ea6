"""Plays a scenario: a worker at the far end of a channel in memory, which asks the host for what the steps say.

How the steps are taken:

* `get`, `list` and `stop` are waited for until they are answered, since all three are at once. A `spawn` is not.
* A `wait` ends when what it waits for has come, or can come no more: every request is answered, and the processes that
  could still say it have ended, with all their messages delivered. So nothing here depends on how long a wait was
  given.
* A SIGKILL with requests right behind it is one that the host hears of after those: the process is frozen first.
* `setenv` has another program run JavaScript, or none: the variable names it there, and a link here.
* `unload` closes the worker, and what comes behind it cannot be asked any more.
* `alive` and `peek` look from outside. A process that has been announced as ended must be gone, and any other alive.

After the last step, and once the entries have printed what they print, the host kills what is left. What the worker
hears then is no part of the recording; `play` checks that it is one end for each process, and one answer for each
request.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from conformance.printing import lines_of_entries, printed_into
from conformance.recording import LIFECYCLE, MESSAGE, UNDELIVERED, Output, Scenario
from conformance.values import value_of
from spindle_trio import REFERENCE_LIMITS, Host, Limits, open_host
from spindle_trio.abc import Launcher
from support.fork_server import wait_until
from support.worker_protocol import MemoryEnd, memory_ends

GUARD_SECONDS = 60
"""How long one scenario may take in all before it counts as hanging."""


@attrs.define
class Play:
    """The outcome of a scenario."""

    outputs: list[Output] = attrs.field(factory=list)
    """All that the worker heard up to the last step."""
    printed: list[str] = attrs.field(factory=list)
    """Lines that the processes have printed."""
    heartbeat_timeouts: list[float] = attrs.field(factory=list)
    """What each `peek` found, in seconds."""
    refusal: ValueError | None = None
    """Why such a worker cannot be opened."""


async def play(
    scenario: Scenario, root: Path, launcher: Launcher, *, grace_period: float, program: Path | None = None
) -> Play:
    """Play a scenario, and check what holds for every one.

    Args:
        scenario: what to play; its entries are written first.
        root: the worker's root, an empty folder.
        launcher: the host's.
        grace_period: the host's.
        program: what runs JavaScript there, for scenarios that take it away.
    """
    for name, source in scenario.entry_files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(source)
    limits = REFERENCE_LIMITS if scenario.name.startswith("limits_") else Limits()
    result = Play()
    with trio.fail_after(GUARD_SECONDS), printed_into(result.printed):
        async with open_host(launcher, grace_period=grace_period, limits=limits) as host:
            try:
                async with _served(host, root, scenario.user_id, program) as player:
                    for number, step in enumerate(scenario.steps):
                        await player.take(step, scenario.steps[number + 1 :])
                    await wait_until(lambda: len(result.printed) >= len(lines_of_entries(scenario)))
                    result.outputs = await player.finish()
            except* ValueError as errors:
                (result.refusal,) = errors.exceptions  # type: ignore[assignment]  # one task has raised one
            else:
                result.heartbeat_timeouts = player.heartbeat_timeouts
    return result


@asynccontextmanager
async def _served(host: Host, root: Path, user_id: str | None, program: Path | None) -> AsyncIterator[Player]:
    near, far = memory_ends()
    async with trio.open_nursery() as nursery:
        player = Player(host, far, program)
        nursery.start_soon(player.listen)

        async def serve() -> None:
            await host.serve_worker(near, "conformance", root=root, user_id=user_id)

        nursery.start_soon(serve)  # noqa: ASYNC113  # the requests wait in the channel
        try:
            yield player
        finally:
            player.close()


class Player:
    """The worker, and observers from outside."""

    def __init__(self, host: Host, end: MemoryEnd, program: Path | None) -> None:
        self.heard: list[Output] = []
        self.heartbeat_timeouts: list[float] = []
        self._host = host
        self._end = end
        self._program = program
        self._ids: dict[str, str] = {}  # P1 → id
        self._pidfds: dict[str, int] = {}  # P1 → of the process
        self._unanswered: set[str] = set()
        self._messages_due: dict[str, int] = {}  # by id
        self._ended: set[str] = set()
        self._frozen: str | None = None
        self._is_unloaded = False
        self._changed = trio.lowlevel.ParkingLot()

    # ---- hearing

    async def listen(self) -> None:
        """Take in what the host says, until the channel is closed."""
        while True:
            try:
                output: Any = await self._end.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return
            self.heard.append(output)
            match output["type"]:
                case "response":
                    self._unanswered.remove(output["requestId"])  # each is answered once
                case kind if kind == MESSAGE:
                    self._note_messages(output["processId"], -1)
                case kind if kind == UNDELIVERED:
                    pass
                case _:
                    self._note_event(output["event"], output.get("messages", 0))
            self._changed.unpark_all()

    def _note_event(self, event: Mapping[str, Any], messages: int) -> None:
        process_id = event["processId"]
        assert process_id not in self._ended, "an event came after the end"
        if event["state"] == "starting":
            self._ids[f"P{len(self._ids) + 1}"] = process_id
        elif event["state"] == "running":
            self._open_pidfd(process_id)
        elif "exitReason" in event:
            self._ended.add(process_id)
            self._note_messages(process_id, messages)

    def _note_messages(self, process_id: str, count: int) -> None:
        """Note messages that are still to come, or one that has: only after the end is it known how many they are."""
        if process_id in self._ended:
            self._messages_due[process_id] = self._messages_due.get(process_id, 0) + count
            assert self._messages_due[process_id] >= 0, "more messages came than the terminal event announced"

    def _open_pidfd(self, process_id: str) -> None:
        supervisor = self._supervisor(process_id)
        if supervisor is not None and supervisor.pid is not None:
            try:
                self._pidfds[process_id] = os.pidfd_open(supervisor.pid)
            except ProcessLookupError:
                pass  # it has gone meanwhile

    def _supervisor(self, process_id: str) -> Any:
        return next((p for worker in self._host._scope._workers for p in worker if p.process_id == process_id), None)

    @property
    def _is_over(self) -> bool:
        """Whether nothing can come any more that has not been asked for yet."""
        return not self._unanswered and set(self._ids.values()) == self._ended and not any(self._messages_due.values())

    # ---- steps

    async def take(self, step: Mapping[str, Any], following: Any) -> None:
        """Take one step."""
        match step:
            case {"wait": wanted}:
                await self._wait(wanted)
            case {"sleep": milliseconds}:
                await trio.sleep(milliseconds / 1000)  # the scenario's own
            case {"kill": name, "p": process}:
                is_in_a_hurry = name == "SIGKILL" and bool({"send", "stop"} & set(following[0]))
                self._signal(process, "SIGSTOP" if is_in_a_hurry else name)
                self._frozen = process if is_in_a_hurry else None
            case {"unload": _}:
                self._is_unloaded = True
                await self._end.sending.aclose()
            case {"alive": process}:
                self._look_at(process)
            case {"peek": process}:
                supervisor = self._supervisor(self._ids[process])
                if supervisor is not None:
                    self.heartbeat_timeouts.append(supervisor.record.life.heartbeat_timeout)
            case {"setenv": {"LUMIVERSE_BUN_PATH": path}}:
                assert self._program is not None
                self._program.unlink()
                self._program.symlink_to(path)
            case _:
                await self._ask(step)
        if self._frozen is not None and not {"kill", "send"} & set(step):
            self._signal(self._frozen, "SIGKILL")
            self._frozen = None

    async def _ask(self, step: Mapping[str, Any]) -> None:
        if self._is_unloaded:
            return
        verb = next(verb for verb in ("spawn", "list", "get", "stop", "send") if verb in step)
        request: dict[str, Any] = {"type": f"backend_process_{verb}"}
        if verb == "send":
            request["payload"] = value_of(step["send"])
        else:
            request["requestId"] = step[verb]
            self._unanswered.add(step[verb])
        if "p" in step:
            request["processId"] = self._ids.get(step["p"], step["p"]) if isinstance(step["p"], str) else step["p"]
        request |= {name: value_of(step[name]) for name in ("options", "filter", "userId") if name in step}
        await self._end.send(request)
        if verb not in {"spawn", "send"}:
            while step[verb] in self._unanswered:
                await self._changed.park()

    async def _wait(self, wanted: Mapping[str, Any]) -> None:
        while not (self._has_come(wanted) or self._is_over or self._is_of_nobody(wanted)):
            await self._changed.park()

    def _has_come(self, wanted: Mapping[str, Any]) -> bool:
        match wanted:
            case {"resp": request_id}:
                return any(output.get("requestId") == request_id for output in self.heard)
            case {"state": state, **others}:
                process_id = self._ids.get(others.get("p", ""))
                events = [output["event"] for output in self.heard if output["type"] == LIFECYCLE]
                found = [
                    event
                    for event in events
                    if event["state"] == state and ("p" not in others or event["processId"] == process_id)
                ]
            case {"msg": process, **others}:
                messages = [output for output in self.heard if output["type"] == MESSAGE]
                found = [
                    message
                    for message in messages
                    if message["processId"] == self._ids.get(process)
                    and ("payload" not in others or message["payload"] == others["payload"])
                ]
            case _:
                raise ValueError(wanted)
        return len(found) >= others.get("count", 1)

    def _is_of_nobody(self, wanted: Mapping[str, Any]) -> bool:
        """Whether it is of a process that has never been."""
        return "msg" in wanted and wanted["msg"] not in self._ids and not self._unanswered

    # ---- looking from outside

    def _signal(self, process: str, name: str) -> None:
        signal.pidfd_send_signal(self._pidfds[self._ids[process]], signal.Signals[name])

    def _look_at(self, process: str) -> None:
        process_id = self._ids[process]
        pidfd = self._pidfds.get(process_id)
        is_alive = pidfd is not None and not select.select([pidfd], [], [], 0)[0]
        assert is_alive == (process_id not in self._ended), process

    # ---- the end

    async def finish(self) -> list[Output]:
        """Have the host kill what is left, and return what was heard before that, with processes by their names."""
        while any(self._messages_due.values()):
            await self._changed.park()
        if self._is_unloaded or self._ended == {*self._ids.values()}:
            await self._wait_over()  # a start that has failed is answered after the terminal event
        outputs, live = list(self.heard), {*self._ids.values()} - self._ended
        unanswered = set(self._unanswered)
        self._host.kill()
        await self._wait_over()
        rest = self.heard[len(outputs) :]
        ends = [output["event"] for output in rest if "exitReason" in output.get("event", {})]
        assert {event["processId"] for event in ends} == live
        assert all(event["exitReason"] == "backend_unloaded" for event in ends)
        assert {output["requestId"] for output in rest if output["type"] == "response"} == unanswered
        return outputs

    async def _wait_over(self) -> None:
        while not self._is_over:
            await self._changed.park()

    def close(self) -> None:
        """Be gone."""
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()
        self._end.sending.close()
