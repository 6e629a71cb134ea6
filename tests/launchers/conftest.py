"""Real children without a host: a test says on the lanes what a host would say, and looks at what comes back."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from spindle_trio._model import OMITTED, Limits
from spindle_trio._protocol._control_frames import encode_init, encode_stop
from spindle_trio._protocol._frames import encode_body
from spindle_trio.abc import Launcher, LaunchOrder
from spindle_trio.launchers import ForkServerLauncher, PythonLauncher
from spindle_trio.launchers._local._local_process import LocalProcess

GUARD_SECONDS = 20
"""How long one test may wait in all before it counts as hanging."""

DEFAULT_LIMITS = Limits()

Frame = dict[str, Any]


class Child:
    """A launched process, in the words of the protocol."""

    def __init__(self, process: LocalProcess, init: bytes, root: Path) -> None:
        self.process = process
        self.root = root
        self.init = init
        """The first frame, for tests that send it themselves."""
        self.frames: list[Frame] = []
        """Every control frame so far."""
        self._unread: list[Frame] = []
        self._payloads: list[Any] = []

    def begin(self) -> None:
        with suppress(trio.BrokenResourceError):  # it has ended already
            assert self.process.control.send_nowait(self.init)

    def stop(self, reason: str | None = None) -> None:
        self.process.request_stop()
        assert self.process.control.send_nowait(encode_stop(reason))

    def send(self, payload: object) -> None:
        assert self.process.messages.send_nowait(encode_body(payload))

    async def frame(self) -> Frame:
        while not self._unread:
            new = [json.loads(body) for body in await self.process.control.receive(100)]
            self.frames += new
            self._unread += new
        return self._unread.pop(0)

    async def frame_of_type(self, kind: str) -> Frame:
        while (frame := await self.frame())["type"] != kind:
            pass
        return frame

    async def payload(self) -> Any:
        while not self._payloads:
            self._payloads += [json.loads(body) for body in await self.process.messages.receive(100)]
        return self._payloads.pop(0)

    async def last_frames(self) -> list[Frame]:
        """All control frames up to the last one."""
        await self.frame_of_type("exiting")
        return self.frames


Launch = Callable[..., AbstractAsyncContextManager[Child]]


@pytest.fixture(params=[pytest.param("python", marks=pytest.mark.slow), "forked"])
def launch(request: pytest.FixtureRequest, tmp_path: Path, nothing_left: None) -> Launch:
    """Launch an entry, given as source, and send it its first frame: by each launcher of Python entries."""
    return launching(
        PythonLauncher(spares=0) if request.param == "python" else ForkServerLauncher(preload=(), spares=0), tmp_path
    )


LaunchWith = Callable[[Launcher], Launch]


@pytest.fixture
def launch_with(tmp_path: Path, nothing_left: None) -> LaunchWith:
    """The same by a launcher that the test makes."""
    return lambda launcher: launching(launcher, tmp_path)


def launching(launcher: Launcher, root: Path) -> Launch:
    """Make what launches entries in a folder; the launcher is started for each, and closed after it."""

    @asynccontextmanager
    async def open_child(
        source: str = "",
        *,
        entry: str = "entry.py",
        payload: object = OMITTED,
        heartbeat_timeout: float = math.inf,
        environment: dict[str, str] | None = None,
        limits: Limits = DEFAULT_LIMITS,
        begin: bool = True,
        vanishes: bool = False,
        **facts: object,
    ) -> AsyncIterator[Child]:
        path = root / entry
        path.parent.mkdir(parents=True, exist_ok=True)
        if source:
            path.write_text(textwrap.dedent(source))
        order = LaunchOrder("p-1", launcher.resolve(entry, root), root, environment or {}, limits)
        if vanishes:  # once it has been resolved
            path.unlink()
        init = encode_init(
            process_id="p-1",
            entry=entry,
            kind=str(facts.get("kind", entry)),
            key=None,
            user_id="ada",
            payload=payload,
            metadata=None,
            heartbeat_timeout=heartbeat_timeout,
            limits=limits,
        )
        with trio.fail_after(GUARD_SECONDS):
            await launcher.start()
            try:
                async with launcher.launch(order) as process:
                    assert isinstance(process, LocalProcess)
                    child = Child(process, init, root)
                    if begin:
                        child.begin()
                    yield child
            finally:
                await launcher.aclose()

    return open_child
