"""The contract test for launchers: what `spindle_trio.abc` promises, checked on real launches.

Each check is a function whose docstring is the promise; a failure quotes it. The checks use only `spindle_trio.abc`, so
they need no host. Everything that they launch runs the entry that `entries/check_entry.py` describes.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from spindle_trio._errors import EntryError, PeerProtocolError
from spindle_trio._model import JsonValue, Limits
from spindle_trio._protocol._control_frames import encode_init, encode_stop
from spindle_trio._protocol._frames import encode_body
from spindle_trio.abc import ExitStatus, FrameLane, LaunchedProcess, Launcher, LaunchOrder
from spindle_trio.testing._belongings import expect_belongings, settled_belongings

ENTRIES: Final = Path(__file__).parent / "entries"
"""The folder with the entry that `check_launcher` uses for launchers of Python files."""

_GUARD_SECONDS: Final = 30.0
"""Longer than any step may take on a busy machine. In virtual time it passes at once when everything waits."""
_LIMITS: Final = Limits()
_CANCELLATIONS: Final = 12
"""How many launches are cancelled, each a little later than the one before."""


async def check_launcher(
    make_launcher: Callable[[], Launcher], *, entry: str = "check_entry.py", root: Path = ENTRIES
) -> None:
    """Check that a launcher keeps the promises of `spindle_trio.abc`; return if it does.

    Works in real and in virtual time. With a launcher of real processes it takes some seconds, and on Linux it also
    looks at this program's children and descriptors, so nothing else should come and go meanwhile.

    Args:
        make_launcher: makes a fresh launcher. (`MemoryLauncher({"check_entry.py": check_entry})` for one.)
        entry: names the entry that does what `spindle_trio/testing/entries/check_entry.py` says.
        root: the root under which the launcher finds it, an absolute path.

    Raises:
        AssertionError: a promise is broken; says which one, and how.
    """
    launcher = make_launcher()
    # Around both, since a launcher may leave a nursery open in between; against an `aclose` that hangs.
    with trio.CancelScope() as patience:
        await launcher.start()
        try:
            bench = _Bench(launcher, entry, root)
            for check in _CHECKS:
                await _carry_out(check, bench)
        finally:
            patience.shield = True
            patience.deadline = trio.current_time() + _GUARD_SECONDS
            await launcher.aclose()


async def _carry_out(check: Callable[[_Bench], Awaitable[None]], bench: _Bench) -> None:
    promise = " ".join((check.__doc__ or "").split())
    try:
        with trio.fail_after(_GUARD_SECONDS):
            await check(bench)
    except Exception as error:
        shown = " ".join(_leaf_texts(error))
        raise AssertionError(f"{bench.launcher!r} breaks a promise of launchers: {promise} ({shown})") from error


def _leaf_texts(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        group: BaseExceptionGroup[BaseException] = error
        return [text for inner in group.exceptions for text in _leaf_texts(inner)]
    if isinstance(error, trio.TooSlowError):
        return [f"it was not so within {_GUARD_SECONDS:g} s"]
    return [f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)]


@attrs.frozen
class _Subject:
    """A launched process and what to say to it."""

    process: LaunchedProcess

    async def frame(self) -> dict[str, JsonValue]:
        """Read the next control frame, other than heartbeats."""
        while True:
            (body,) = await self.process.control.receive(1)
            frame = json.loads(body)
            if frame["type"] != "heartbeat":
                return dict(frame)

    async def expect_ready(self) -> None:
        frame = await self.frame()
        assert frame["type"] == "ready", f"the first control frame was {frame}, not ready"

    async def send(self, *payloads: object) -> None:
        await self.process.messages.send_pending([encode_body(payload) for payload in payloads])

    async def messages(self, count: int, *, at_a_time: int = 1000) -> list[JsonValue]:
        """Read so many messages."""
        got: list[JsonValue] = []
        while len(got) < count:
            most = min(at_a_time, count - len(got))
            bodies = await self.process.messages.receive(most)
            assert 1 <= len(bodies) <= most, f"receive({most}) returned {len(bodies)} frames"
            got += [json.loads(body) for body in bodies]
        return got


class _Bench:
    """The launcher under test, and a way to launch with it."""

    def __init__(self, launcher: Launcher, entry: str, root: Path) -> None:
        self.launcher = launcher
        self.entry = entry
        self.root = root
        self._launches = 0

    def block(self, *, limits: Limits = _LIMITS) -> AbstractAsyncContextManager[LaunchedProcess]:
        """Make a launch block."""
        self._launches += 1
        order = LaunchOrder(
            process_id=f"check-{self._launches}",
            entry=self.launcher.resolve(self.entry, self.root),
            root=self.root,
            environment=dict(os.environ),
            limits=limits,
        )
        return self.launcher.launch(order)

    def begin(self, process: LaunchedProcess, do: str, **payload: object) -> None:
        """Send the first frame."""
        init = encode_init(
            process_id="check",
            entry=self.entry,
            kind=self.entry,
            key=None,
            user_id=None,
            payload={"do": do, **payload},
            metadata=None,
            heartbeat_timeout=math.inf,
            limits=_LIMITS,
        )
        assert process.control.send_nowait(init), "the first frame did not leave at once"

    @asynccontextmanager
    async def launched(self, do: str, *, limits: Limits = _LIMITS, **payload: object) -> AsyncGenerator[_Subject, None]:
        """Launch an entry that does this, for as long as the block lasts."""
        async with self.block(limits=limits) as process:
            self.begin(process, do, **payload)
            yield _Subject(process)


async def _resolve_refuses(bench: _Bench) -> None:  # noqa: ASYNC124  # one of many, which are async
    """`resolve` accepts the entry, and refuses paths that are absolute, climb, or lead nowhere, by `EntryError`."""
    resolved = bench.launcher.resolve(bench.entry, bench.root)
    assert resolved.entry == bench.entry, f"{bench.entry!r} was resolved as {resolved.entry!r}"
    suffix = Path(bench.entry).suffix
    for wrong in (str(bench.root / bench.entry), f"../{bench.root.name}/{bench.entry}", "", f"not-there{suffix}"):
        try:
            bench.launcher.resolve(wrong, bench.root)
        except EntryError:
            continue
        raise AssertionError(f"it accepted {wrong!r}")


async def _launches(bench: _Bench) -> None:
    """A launched process is alive, reads its first frame, and says that it is ready."""
    async with bench.launched("echo") as subject:
        assert not subject.process.has_exited(), "has_exited() is true of a live process"
        await subject.expect_ready()
        assert not subject.process.has_exited(), "has_exited() is true of a live process"
        assert isinstance(subject.process.stderr_tail(), str), "stderr_tail() is not a str"
        assert subject.process.output_dropped() == 0, "output_dropped() is not 0 where nothing was written"


async def _keeps_order(bench: _Bench) -> None:
    """Messages arrive once each and in order, both ways, whatever their size."""
    payloads: list[object] = [*range(200), "x" * 300_000, "y" * 300_000, {"small": 1}, "z" * (_LIMITS.frame_bytes - 2)]
    async with bench.launched("echo") as subject, trio.open_nursery() as nursery:
        await subject.expect_ready()
        nursery.start_soon(subject.send, *payloads)
        await trio.sleep(0.05)  # so that several frames wait, and are received together
        got = await subject.messages(len(payloads))
        differing = [number for number, (sent, came) in enumerate(zip(payloads, got, strict=True)) if sent != came]
        assert not differing, f"of {len(payloads)} messages, number {differing[0]} was the first to differ"


async def _receive_keeps_trios_rules(bench: _Bench) -> None:
    """`receive_nowait` raises `WouldBlock` while nothing has arrived, and a cancelled `receive` loses nothing."""
    async with bench.launched("echo") as subject:
        await subject.expect_ready()
        _expect_nowait(subject.process.messages, trio.WouldBlock)
        for number in range(10):
            with trio.CancelScope() as scope:
                scope.cancel()
                await subject.process.messages.receive(10)
            assert scope.cancelled_caught, "receive() was cancelled before it was called, and went on"
            await subject.send(number)
            await trio.sleep(0.001)
        assert await subject.messages(10, at_a_time=3) == list(range(10)), "messages were lost, or changed places"
        # Cancelled while it waits, at every step around the one in which a message comes.
        got: list[JsonValue] = []
        for number in range(2 * _CANCELLATIONS):
            await subject.send(number)
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    nursery.start_soon(_cancel_after, scope, number // 2, number % 2 / 10_000)  # noqa: ASYNC111  # as below
                    got += map(json.loads, await subject.process.messages.receive(10))
            got += await subject.messages(number + 1 - len(got))
        assert got == list(range(2 * _CANCELLATIONS)), "messages were lost, or changed places"


async def _holds_up_senders(bench: _Bench) -> None:
    """A process that does not read makes `send_nowait` return false, and still hears a stop."""
    async with bench.launched("hold") as subject:
        await subject.expect_ready()
        body = encode_body("x" * 100_000)
        for _ in range(1000):
            if not subject.process.messages.send_nowait(body):
                break
        else:
            raise AssertionError("100 MB of messages left at once for a process that reads none")
        assert subject.process.control.send_nowait(encode_stop("enough")), "a stop did not leave at once"
        subject.process.request_stop()
        subject.process.request_stop()
        frame = await subject.frame()
        assert (frame["type"], frame.get("result")) == ("complete", "enough"), f"the stop was answered by {frame}"


async def _shows_heartbeats(bench: _Bench) -> None:
    """`last_heartbeat` is -inf before the first, moves with each, and is never in the future."""
    async with bench.block() as process:
        assert process.last_heartbeat() == -math.inf, f"{process.last_heartbeat()} before the first frame"
        launched_at = trio.current_time()
        bench.begin(process, "beat")
        subject = _Subject(process)
        await subject.expect_ready()
        first = process.last_heartbeat()
        assert launched_at - 0.01 <= first <= trio.current_time(), f"after ready it was {first}, which is not then"
        await trio.sleep(0.05)
        # A time that travels as an age is converted at each look, and jitters by as much as that takes.
        assert abs(process.last_heartbeat() - first) < 0.01, "it moved without a heartbeat"
        await subject.send(1)
        await subject.messages(1)
        second = process.last_heartbeat()
        assert first + 0.03 <= second <= trio.current_time(), f"after a heartbeat it was {second}, and {first} before"


async def _kills(bench: _Bench) -> None:
    """`kill` ends a process at once, may be called again, also later, and `wait` tells of the same end each time."""
    async with bench.launched("hold") as subject:
        await subject.expect_ready()
        with trio.CancelScope() as scope:
            scope.cancel()
            await subject.process.wait()
        assert scope.cancelled_caught, "wait() was cancelled before it was called, and went on"
        subject.process.kill()
        subject.process.kill()
        status = await subject.process.wait()
        assert status == ExitStatus(signal=signal.SIGKILL), f"a killed process {status}"
        assert subject.process.has_exited(), "has_exited() is false after wait() has returned"
        subject.process.kill()
        again = await subject.process.wait()
        assert again == status, f"first it {status}, and then it {again}"


async def _kills_what_never_yields(bench: _Bench) -> None:
    """`kill` ends a process that never yields to anything."""
    async with bench.block() as process:
        if process.is_in_this_run:
            return  # in this very program, nothing could be done about it
        bench.begin(process, "block")
        await _Subject(process).expect_ready()
        process.kill()
        status = await process.wait()
        assert status == ExitStatus(signal=signal.SIGKILL), f"a killed process {status}"


async def _reports_exit_codes(bench: _Bench) -> None:
    """`wait` tells with which code a process has exited by itself."""
    for code in (0, 3):
        async with bench.launched("exit", code=code) as subject:
            status = await subject.process.wait()
            assert status == ExitStatus(code=code), f"after sys.exit({code}) it {status}"


async def _leaves_lanes_readable(bench: _Bench) -> None:
    """What a process has sent before its end can be read after it, and then `EndOfChannel` comes, each time."""
    async with bench.launched("flood", count=10, size=100) as subject:
        await subject.process.wait()
        got = await subject.messages(10)
        assert got == [[number, "x" * 100] for number in range(10)], "messages from before the end were lost"
        await subject.expect_ready()
        frame = await subject.frame()
        assert frame["type"] == "complete", f"after ready came {frame}, not complete"
        for lane in (subject.process.control, subject.process.messages):
            await _read_to_the_end(lane)
            _expect_nowait(lane, trio.EndOfChannel)
            try:
                lane.send_nowait(b"1")
            except trio.BrokenResourceError:
                pass
            else:
                raise AssertionError("send_nowait to a process that is gone raised no BrokenResourceError")


async def _exits_when_control_ends(bench: _Bench) -> None:
    """When the control lane of a process that ends is at its end, its exit is seen within `control_patience`."""
    async with bench.launched("flood", count=1, size=1) as subject:
        process = subject.process
        await _read_to_the_end(process.control)
        if not process.has_exited():
            with trio.move_on_after(process.control_patience):
                await process.wait()
        assert process.has_exited(), "control_patience is over, and it has not exited"


async def _waits_for_readers(bench: _Bench) -> None:
    """A process whose messages are not read waits, and loses none of them."""
    async with bench.launched("flood", count=100, size=100_000) as subject:
        await subject.expect_ready()
        with trio.move_on_after(0.2):
            await subject.process.wait()
        assert not subject.process.has_exited(), "10 MB of unread messages were taken in"
        numbers = [message[0] for message in await subject.messages(100) if isinstance(message, list)]
        assert numbers == list(range(100)), "messages were lost, or changed places"


async def _refuses_long_frames(bench: _Bench) -> None:
    """A frame from the process that is longer than `frame_bytes` is refused by `PeerProtocolError`, each time."""
    limits = attrs.evolve(_LIMITS, frame_bytes=1000)
    async with bench.launched("flood", limits=limits, count=1, size=1000) as subject:
        for _ in range(2):
            try:
                await subject.process.messages.receive(1)
            except PeerProtocolError:
                continue
            raise AssertionError("it was let in")


async def _keeps_processes_apart(bench: _Bench) -> None:
    """Two processes live side by side, and the end of one does not touch the other."""
    async with bench.launched("echo") as one, bench.launched("echo") as other:
        await one.expect_ready()
        await other.expect_ready()
        one.process.kill()
        await one.process.wait()
        await other.send("still there")
        assert await other.messages(1) == ["still there"], "the other process did not answer"
        assert not other.process.has_exited(), "the other process was seen to exit"


async def _ends_when_the_host_goes(bench: _Bench) -> None:
    """A process whose host closes the control lane ends by itself."""
    async with bench.launched("echo") as subject:
        await subject.expect_ready()
        subject.process.control.close()
        _expect_nowait(subject.process.control, trio.ClosedResourceError)
        await subject.process.wait()


async def _leaves_nothing(bench: _Bench) -> None:
    """Leaving the block, by return, error or cancellation, kills and reaps the process, and leaves errors bare."""
    before = await settled_belongings()
    async with bench.launched("hold") as subject:
        await subject.expect_ready()
    assert subject.process.has_exited(), "it was left by return, and the process has not exited"
    _expect_gone(subject.process)

    left: list[LaunchedProcess] = []
    try:
        async with bench.block() as process:
            left.append(process)
            bench.begin(process, "hold")
            raise _BlockError
    except _BlockError:
        pass
    except BaseExceptionGroup as group:
        raise AssertionError(f"an error of the block came out in a group: {group!r}") from group
    else:
        raise AssertionError("an error of the block did not come out of it")
    with trio.CancelScope() as scope:
        async with bench.block() as process:
            left.append(process)
            bench.begin(process, "hold")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught, "the block was cancelled, and the cancellation did not come out of it"
    for process, how in zip(left, ("an error", "a cancellation"), strict=True):
        assert process.has_exited(), f"it was left by {how}, and the process has not exited"
        _expect_gone(process)
    await expect_belongings(before)


class _BlockError(Exception):
    """Is raised in a block, to see what comes out of it."""


async def _launch_can_be_cancelled(bench: _Bench) -> None:
    """Entering the block can be cancelled at any checkpoint, and then no process and no descriptor is left."""
    before = await settled_belongings()
    for seconds in (0.0, 0.002):
        for number in range(_CANCELLATIONS):
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    nursery.start_soon(_cancel_after, scope, number, seconds)  # noqa: ASYNC111  # may outlive it
                    async with bench.block() as process:
                        bench.begin(process, "hold")
                        await trio.sleep_forever()
    await expect_belongings(before)


async def _cancel_after(scope: trio.CancelScope, checkpoints: int, seconds: float) -> None:
    """Cancel after so many checkpoints, each after so many seconds: the first few of a launch, and its whole length."""
    for _ in range(checkpoints):
        await trio.sleep(seconds)
    scope.cancel()


_CHECKS: Final[tuple[Callable[[_Bench], Awaitable[None]], ...]] = (
    _resolve_refuses,
    _launches,
    _keeps_order,
    _receive_keeps_trios_rules,
    _holds_up_senders,
    _shows_heartbeats,
    _kills,
    _kills_what_never_yields,
    _reports_exit_codes,
    _leaves_lanes_readable,
    _exits_when_control_ends,
    _waits_for_readers,
    _refuses_long_frames,
    _keeps_processes_apart,
    _ends_when_the_host_goes,
    _leaves_nothing,
    _launch_can_be_cancelled,
)


async def _read_to_the_end(lane: FrameLane) -> None:
    while True:
        try:
            await lane.receive(100)
        except trio.EndOfChannel:
            return


def _expect_nowait(lane: FrameLane, expected: type[Exception]) -> None:
    try:
        lane.receive_nowait(1)
    except expected:
        return
    except Exception as error:
        raise AssertionError(f"receive_nowait() raised {type(error).__name__}, not {expected.__name__}") from error
    raise AssertionError(f"receive_nowait() returned, and did not raise {expected.__name__}")


def _expect_gone(process: LaunchedProcess) -> None:
    """Make sure that there is no such process any more, not even a zombie."""
    if process.pid is None:
        return
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return
    raise AssertionError(f"process {process.pid} is still there after its block was left")
