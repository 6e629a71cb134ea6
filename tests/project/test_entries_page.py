"""The entries of `notes/entries.md` run, and do the same in each language."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

import spindle_trio as spindle
from support.javascript import needs_node

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "notes" / "entries.md").read_text(encoding="utf-8")
SOURCES = dict(re.findall(r"^```(?:python\n# |js\n// )(tally\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
PAYLOAD = {"least": 3}
GUARD_SECONDS = 60


def marked(name: str) -> object:
    """Make an entry a case of a test, which is skipped if nothing can run it."""
    return pytest.param(name, marks=[] if name.endswith(".py") else [needs_node])


every_entry = pytest.mark.parametrize("name", [marked(name) for name in SOURCES])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with all entries of the page."""
    for name, source in SOURCES.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    return tmp_path


def test_the_page_has_an_entry_of_each_kind() -> None:
    assert list(SOURCES) == ["tally_async.py", "tally_blocking.py", "tally.js", "tally.cjs"]


@every_entry
async def test_each_entry_answers_and_completes(root: Path, name: str) -> None:
    with trio.fail_after(GUARD_SECONDS):
        async with spindle.open_host() as host, host.open_worker("page", root=root, user_id="ada") as worker:
            handle = await worker.backend_processes.spawn(name, payload=PAYLOAD)
            for text in ("the cat is in the house", "no dog", None):
                await handle.send(text)
            assert [payload async for payload in handle.messages()] == [{"words": 4}, {"words": 5}, {"last": 5}]
            info = await handle.wait_ended()
            assert (info.state, handle.result) == (spindle.ProcessState.COMPLETED, {"words": 5})


@every_entry
async def test_each_entry_cleans_up_when_it_is_stopped(root: Path, name: str) -> None:
    with trio.fail_after(GUARD_SECONDS):
        async with spindle.open_host() as host, host.open_worker("page", root=root, user_id="ada") as worker:
            handle = await worker.backend_processes.spawn(name, payload=PAYLOAD)
            messages = handle.messages()
            await handle.send("the cat")
            assert await messages.receive() == {"words": 2}
            await handle.stop()
            assert [payload async for payload in messages] == [{"last": 2}]
            assert (handle.state, handle.info.error) == (spindle.ProcessState.STOPPED, None)


@every_entry
async def test_each_entry_fails_by_what_it_raises(root: Path, name: str) -> None:
    with trio.fail_after(GUARD_SECONDS):
        async with spindle.open_host() as host, host.open_worker("page", root=root, user_id="ada") as worker:
            with pytest.raises(spindle.StartupFailedError, match="TypeError: ") as failed:
                await worker.backend_processes.spawn(name)
            assert failed.value.info.state is spindle.ProcessState.FAILED
