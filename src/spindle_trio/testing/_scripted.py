"""A child that a test drives frame by frame, below `ProcessContext`: it can lie, break the protocol and fall silent."""

from __future__ import annotations

import json
import signal as signals
from collections.abc import Callable, Iterable

import trio

from spindle_trio._model import JsonValue
from spindle_trio._protocol._frames import encode_body
from spindle_trio.abc import ExitStatus, FrameLane
from spindle_trio.child._facts import ProcessFacts, facts_from_init
from spindle_trio.testing._memory_process import KILLED, MemoryProcess
from spindle_trio.testing._scripted_calls import ScriptedCalls


class ScriptedChild:
    """One launched child, driven by a test.

    Give it to a `MemoryLauncher` as an entry; it does nothing by itself, not even read::

        child = ScriptedChild()
        async with open_host(MemoryLauncher({"child": child})) as host, ...:
            nursery.start_soon(worker.backend_processes.spawn, "child")
            await child.started()
            child.ready()

    Everything is sent as given, in any order; nothing checks it. Driving a child that has not been launched, has ended
    or hangs is a mistake of the test and raises `AssertionError`.
    """

    def __init__(self) -> None:
        """Wait to be launched."""
        self._process: MemoryProcess | None = None
        self._was_launched = trio.Event()
        self._noted = trio.lowlevel.ParkingLot()
        # What changes: what the host has said and how; what this child has sent; what it withstands.
        self._init: JsonValue = None
        self._stops: list[str | None] = []
        self._is_reading = False
        self._messages_sent = 0
        self._hangs = self._resists = self._was_killed = False
        self._calls = ScriptedCalls(self._driven, self._read_control_until)

    def __repr__(self) -> str:
        if self._process is None:
            return "<ScriptedChild not launched>"
        state = "hanging" if self._hangs and self.is_alive else "alive" if self.is_alive else "ended"
        return f"<ScriptedChild {state} {self._process.order.entry.entry} {self._process.order.process_id}>"

    # What a test can see of it.

    @property
    def was_launched(self) -> bool:
        """Whether a launcher has launched it; it plays one launch only."""
        return self._process is not None

    @property
    def is_alive(self) -> bool:
        """Whether it has been launched and has not ended."""
        return self._process is not None and not self._process.has_exited()

    @property
    def was_killed(self) -> bool:
        """Whether the host has killed it, even if it survived that."""
        return self._was_killed

    @property
    def messages_sent(self) -> int:
        """How many messages it has sent, raw ones included."""
        return self._messages_sent

    @property
    def calls(self) -> ScriptedCalls:
        """What it hears and says about calls, once it has said that it takes them."""
        return self._calls

    @property
    def init(self) -> JsonValue:
        """The first frame from the host, as it came. Wait for `started()` before."""
        assert self._init is not None, f"{self!r} has not read its first frame: wait for `await child.started()` before"
        return self._init

    @property
    def facts(self) -> ProcessFacts:
        """What the first frame says. Wait for `started()` before."""
        return facts_from_init(self.init)

    async def started(self) -> None:
        """Wait until it has been launched and has read its first frame."""
        await self._was_launched.wait()
        await self._read_control_until(lambda: self._init is not None, "sent its first frame")

    async def stop_requested(self) -> str | None:
        """Wait until the host asks for a stop, and return the reason. Later calls return at once."""
        await self._was_launched.wait()
        await self._read_control_until(lambda: bool(self._stops), "asked for a stop")
        return self._stops[0]

    @property
    def stop_requests(self) -> int:
        """How many stop frames it has read so far; a host sends one at most."""
        return len(self._stops)

    async def kill_requested(self) -> None:
        """Wait until the host kills it."""
        await trio.lowlevel.checkpoint()
        while not self._was_killed:
            await self._noted.park()

    async def receive(self) -> JsonValue:
        """Wait for the next message from the host, and return its payload."""
        await self._was_launched.wait()
        (body,) = await self._driven().child_messages.receive(1)
        payload: JsonValue = json.loads(body)
        return payload

    # What it says.

    def ready(self, *, protocol: int = 1, calls: bool = False, concurrency: int | None = None) -> None:
        """Say `ready`, and beat for the first time.

        Args:
            protocol: which protocol it speaks from now on; 2 has calls.
            calls: whether it takes calls.
            concurrency: how many of them it serves at a time; `None`: it does not say.
        """
        self._driven().beat()
        if protocol == 1 and not calls:
            self._say({"type": "ready"})
        else:
            said = {} if concurrency is None else {"concurrency": concurrency}
            self._say({"type": "ready", "protocol": protocol, "calls": calls, **said})

    def take_calls(self, *, concurrency: int | None = None) -> None:
        """Say that it takes calls from now on, so many at a time; `None`: it does not say how many."""
        self._say({"type": "calls"} if concurrency is None else {"type": "calls", "concurrency": concurrency})

    def heartbeat(self) -> None:
        """Beat, as a real child does in its shared page: no frame is sent."""
        self._driven().beat()

    def send(self, payload: object) -> None:
        """Send a message.

        Raises:
            trio.WouldBlock: the host has not read enough of the earlier ones; see `send_all`.
        """
        self.send_raw_message(encode_body(payload))

    async def send_all(self, payloads: Iterable[object]) -> None:
        """Send messages, waiting whenever the host does not read."""
        await trio.lowlevel.checkpoint()
        for payload in payloads:
            self._messages_sent += 1
            await self._driven().child_messages.send_pending([encode_body(payload)])

    def complete(self, result: object = None, *, messages: int | None = None) -> None:
        """Say `complete`.

        Args:
            result: what it came to.
            messages: how many messages it claims to have sent; the truth by default.
        """
        self._say({"type": "complete", "result": result, "messages": self._count(messages)})

    def fail(self, error: str, *, messages: int | None = None) -> None:
        """Say `fail`."""
        self._say({"type": "fail", "error": error, "messages": self._count(messages)})

    def say_stopped(self, *, messages: int | None = None) -> None:
        """Say `stopped`, as a runtime does that has ended its entry for a stop."""
        self._say({"type": "stopped", "messages": self._count(messages)})

    def say_exiting(self, code: int = 0, *, messages: int | None = None) -> None:
        """Say `exiting`, which is a real child's last frame; it goes on to exist until `exit`."""
        self._say({"type": "exiting", "messages": self._count(messages), "code": code})

    def send_raw_control(self, body: bytes) -> None:
        """Send any bytes as the body of a frame on the control lane."""
        if not self._driven().child_control.send_nowait(body):
            raise AssertionError(f"{self!r}: the host does not read the control lane, and it is full")

    def send_raw_message(self, body: bytes) -> None:
        """Send any bytes as the body of a frame on the messages lane.

        Raises:
            trio.WouldBlock: the host has not read enough of the earlier ones.
        """
        if not self._driven().child_messages.offer(body):
            raise trio.WouldBlock
        self._messages_sent += 1

    def write_stderr(self, text: str) -> None:
        """Show a line on stderr."""
        self._driven().write_stderr(text)

    def use(
        self, *, memory: int | None = None, pids: int | None = None, processor_seconds: float | None = None
    ) -> None:
        """Use so much from now on, as the limits of its spawn and `ProcessHandle.usage` see it.

        If that is more than a limit, it is killed as over that limit.

        Args:
            memory: bytes of memory; `None`: as before.
            pids: processes and threads; `None`: as before.
            processor_seconds: seconds of processor time until now; `None`: as before.
        """
        self._driven().use(memory, pids, processor_seconds)

    # How it ends, or does not.

    def exit(self, code: int = 0) -> None:
        """Exit, whatever was sent before."""
        self._driven().end(ExitStatus(code=code))

    def kill_by(self, signal: int = signals.SIGSEGV) -> None:
        """End by a signal that the host did not send."""
        self._driven().end(ExitStatus(signal=signal))

    def vanish(self) -> None:
        """End with an unknown status."""
        self._driven().end(ExitStatus())

    def hang(self) -> None:
        """Hang: from now on only the host's kill ends it, and driving it is a mistake."""
        self._driven()
        self._hangs = True

    def close_control(self) -> None:
        """Close the control lane and live on."""
        self._driven().child_control.close()

    def close_messages(self) -> None:
        """Close the messages lane and live on."""
        self._driven().child_messages.close()

    def resist_kill(self) -> None:
        """Survive the host's kill until `die()`, like a process that is stuck in the kernel."""
        self._resists = True

    def die(self) -> None:
        """End at last, by the kill that it had survived."""
        self._launched().end(KILLED)

    # What its process calls.

    def enter(self, process: MemoryProcess) -> None:
        """Begin to play this process; called by the launcher."""
        self._process = process

    def begin(self) -> None:
        """Be alive; called by the launcher when the launch block is entered."""
        self._was_launched.set()

    def take_kill(self) -> bool:
        """Note the host's kill, and say whether it ends this child; called by the launcher."""
        self._was_killed = True
        self._noted.unpark_all()
        return not self._resists

    # Helpers.

    def _launched(self) -> MemoryProcess:
        assert self._process is not None, (
            "this ScriptedChild has not been launched: spawn its entry, and wait for `await child.started()`"
        )
        return self._process

    def _driven(self) -> MemoryProcess:
        process = self._launched()
        assert not process.has_exited(), f"{process!r} has ended: a test cannot drive it any more"
        assert not self._hangs, f"{process!r} hangs, as the test has asked it to: it cannot be driven any more"
        return process

    def _say(self, frame: dict[str, object]) -> None:
        self.send_raw_control(encode_body(frame))

    def _count(self, messages: int | None) -> int:
        return self._messages_sent if messages is None else messages

    async def _read_control_until(self, condition: Callable[[], bool], what: str) -> None:
        """Read the control lane until something has been said. Several tasks may wait; one at a time reads."""
        await trio.lowlevel.checkpoint()
        while not condition():
            if self._is_reading:
                await self._noted.park()
                continue
            self._is_reading = True
            try:
                await self._note_frames(self._driven().child_control, what)
            finally:
                self._is_reading = False
                self._noted.unpark_all()

    async def _note_frames(self, lane: FrameLane, what: str) -> None:
        try:
            bodies = await lane.receive(1)
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise AssertionError(f"{self!r} came to the end of its control lane, and the host had not {what}") from None
        for body in bodies:
            frame: JsonValue = json.loads(body)
            if self._init is None:
                self._init = frame
            elif isinstance(frame, dict) and frame.get("type") == "stop":
                reason = frame.get("reason")
                self._stops.append(reason if isinstance(reason, str) else None)
            elif isinstance(frame, dict):
                self._calls.hear({**frame})
