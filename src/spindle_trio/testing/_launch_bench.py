"""What the checks of a launcher launch with, and how they talk to what was launched."""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from spindle_trio._model import JsonValue, Limits
from spindle_trio._protocol._control_frames import encode_init
from spindle_trio._protocol._frames import encode_body
from spindle_trio.abc import FrameLane, LaunchedProcess, Launcher, LaunchOrder

LIMITS: Final = Limits()

CANCELLATIONS: Final = 12
"""How many launches are cancelled, each a little later than the one before."""


@attrs.frozen
class Subject:
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


class Bench:
    """The launcher under test, and a way to launch with it."""

    def __init__(self, launcher: Launcher, entry: str, root: Path) -> None:
        self.launcher = launcher
        self.entry = entry
        self.root = root
        self._launches = 0

    def block(self, *, limits: Limits = LIMITS) -> AbstractAsyncContextManager[LaunchedProcess]:
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
            limits=LIMITS,
        )
        assert process.control.send_nowait(init), "the first frame did not leave at once"

    @asynccontextmanager
    async def launched(self, do: str, *, limits: Limits = LIMITS, **payload: object) -> AsyncGenerator[Subject, None]:
        """Launch an entry that does this, for as long as the block lasts."""
        async with self.block(limits=limits) as process:
            self.begin(process, do, **payload)
            yield Subject(process)


async def cancel_after(scope: trio.CancelScope, checkpoints: int, seconds: float) -> None:
    """Cancel after so many checkpoints, each after so many seconds: the first few of a launch, and its whole length."""
    for _ in range(checkpoints):
        await trio.sleep(seconds)
    scope.cancel()


async def read_to_the_end(lane: FrameLane) -> None:
    while True:
        try:
            await lane.receive(100)
        except trio.EndOfChannel:
            return


def expect_nowait(lane: FrameLane, expected: type[Exception]) -> None:
    try:
        lane.receive_nowait(1)
    except expected:
        return
    except Exception as error:
        raise AssertionError(f"receive_nowait() raised {type(error).__name__}, not {expected.__name__}") from error
    raise AssertionError(f"receive_nowait() returned, and did not raise {expected.__name__}")
