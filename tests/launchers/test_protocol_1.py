"""A child and a launcher that were written against protocol 1, kept as data, go on unchanged."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from spindle_trio import UnknownMethodError, Worker, open_host
from spindle_trio.abc import Launcher

DATA = Path(__file__).parents[1] / "data" / "protocol_1"
FROZEN = {
    "child.py": "3501aee1f3c3b68246ccf17ca08f3ffcfff776bf689d6b3447a484d0f78bfac6",
    "launcher.py": "4f01968294bfc0eebf8ede80c3616645c58be0504f618ac6204c057cc2f4125e",
}


def old_launcher(*, pause: float) -> Launcher:
    """Load the launcher as its author's program would."""
    spec = importlib.util.spec_from_file_location("protocol_1_launcher", DATA / "launcher.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    launcher: Launcher = module.TwoLanesLauncher(pause)
    return launcher


@asynccontextmanager
async def old_worker(*, pause: float = 0.05) -> AsyncIterator[Worker]:
    async with (
        open_host(old_launcher(pause=pause)) as host,
        host.open_worker("old", root=DATA, user_id="ada") as worker,
    ):
        yield worker


@pytest.mark.parametrize("name", FROZEN)
def test_the_child_and_its_launcher_are_what_they_were(name: str) -> None:
    """They stand for programs that others have written: change the library, not them."""
    assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == FROZEN[name]


async def test_it_spawns_exchanges_messages_and_completes() -> None:
    async with old_worker() as worker:
        handle = await worker.backend_processes.spawn("child.py", payload={"a": [1, None]})
        messages = handle.messages()
        first = {"payload": {"a": [1, None]}, "id": handle.process_id, "entry": "child.py"}
        assert await messages.receive() == first
        for message in ("hello", 7, {"ö": "x" * 300_000}):
            await handle.send(message)
            assert await messages.receive() == {"got": message}
        await handle.send("done")
        info = await handle.wait_ended()
        assert (info.state, handle.result) == ("completed", {"echoed": 3}), info.error


async def test_it_stops_when_it_is_asked() -> None:
    async with old_worker() as worker:
        handle = await worker.backend_processes.spawn("child.py")
        await handle.stop(reason="enough", grace=20)
        assert handle.state == "stopped"
        assert handle.post_mortem is None, "it needed no kill"


async def test_its_beats_keep_it_alive_and_their_absence_ends_it() -> None:
    async with old_worker(pause=0.02) as worker:
        handle = await worker.backend_processes.spawn("child.py", heartbeat_timeout=0.5)
        with trio.move_on_after(1) as watched:  # twice the time that it may be silent
            await handle.wait_ended()
        assert watched.cancelled_caught, handle.info
        await handle.send("be quiet")
        info = await handle.wait_ended()
        assert info.state == "timed_out"


async def test_a_call_is_refused_and_harms_nothing() -> None:
    async with old_worker() as worker:
        handle = await worker.backend_processes.spawn("child.py")
        messages = handle.messages()
        await messages.receive()
        with pytest.raises(UnknownMethodError, match=r"\(child.py\) takes no calls, .*speaks protocol 1") as refused:
            await handle.call("square", {"n": 3}, timeout=2)
        assert refused.value.known == ()
        with pytest.raises(UnknownMethodError, match="speaks protocol 1"):
            async with handle.stream("count"):
                raise AssertionError("nobody can answer")
        await handle.send("still here")
        assert await messages.receive() == {"got": "still here"}
