"""Fixtures for tests of hosts, workers and entries in virtual time. Needs pytest-trio.

Override `spindle_entries` to provide entries, or `spindle_commands` to provide programs, and ask for a worker::

    @pytest.fixture
    def spindle_entries():
        return {"indexer.py": indexer.run}

    async def test_it_reports_progress(spindle_worker):
        handle = await spindle_worker.backend_processes.spawn("indexer.py")
        ...

A test that asks for `spindle_host` or `spindle_worker` runs on a `trio.testing.MockClock` that jumps to the next
deadline whenever every task waits, so fifteen seconds without a heartbeat take no time at all. The test needs no mark
and no `autojump_clock`; if it asks for a mock clock of its own, it gets that one.

Real processes do not run in virtual time: such a clock would fire their startup deadline after some milliseconds. So a
test on a mock clock must not start them, and launchers of real processes refuse to.

This module loads nothing of the library until a test asks for a fixture: pytest imports it in every run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import trio

    from spindle_trio import Host, Worker
    from spindle_trio.testing import CommandScript, MemoryEntry, MemoryLauncher, ScriptedChild

T = TypeVar("T")

_VIRTUAL_TIME_FIXTURES: Final = frozenset({"spindle_host", "spindle_worker"})


@pytest.fixture
def spindle_entries() -> Mapping[str, MemoryEntry | ScriptedChild | Sequence[ScriptedChild]]:
    """Return the entries of `spindle_host`: name → `async` function or scripted child. Override it; it has none."""
    return {}


@pytest.fixture
def spindle_commands() -> Mapping[str, CommandScript]:
    """Return the programs of `spindle_host`: name → the script that plays it. Override it; it has none."""
    return {}


@pytest.fixture
def spindle_launcher(
    spindle_entries: Mapping[str, MemoryEntry | ScriptedChild | Sequence[ScriptedChild]],
    spindle_commands: Mapping[str, CommandScript],
) -> MemoryLauncher:
    """Return the launcher of `spindle_host`."""
    from spindle_trio.testing import MemoryLauncher

    return MemoryLauncher(spindle_entries, commands=spindle_commands)


async def _spindle_host(spindle_launcher: MemoryLauncher) -> AsyncIterator[Host]:  # noqa: ASYNC900  # a fixture
    """Open a host in virtual time. At the end of the test it ends all processes, and none may be left."""
    from spindle_trio import open_host

    _make_sure_of_virtual_time()
    async with open_host(spindle_launcher) as host:
        yield host  # noqa: ASYNC119  # pytest-trio sees to its end
    assert spindle_launcher.live_processes == 0, f"{spindle_launcher!r} has live processes after its host was left"
    assert not spindle_launcher.complaints, "\n".join(spindle_launcher.complaints)


async def _spindle_worker(spindle_host: Host) -> AsyncIterator[Worker]:  # noqa: ASYNC900  # a fixture
    """Open a worker of `spindle_host`, bound to the user ``"test-user"``."""
    async with spindle_host.open_worker("test-worker", user_id="test-user") as worker:
        yield worker  # noqa: ASYNC119  # pytest-trio sees to its end


if find_spec("pytest_trio") is not None:
    from pytest_trio import trio_fixture  # type: ignore[import-untyped]  # it ships no types

    # By hand, since the names of functions become the names of fixtures.
    _spindle_host.__name__ = "spindle_host"
    _spindle_worker.__name__ = "spindle_worker"
    spindle_host: object = trio_fixture(_spindle_host)
    spindle_worker: object = trio_fixture(_spindle_worker)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Report what is missing, before pytest reports that a fixture is missing or that nothing runs it."""
    if _needs_virtual_time(item) and not item.config.pluginmanager.hasplugin("trio"):
        pytest.fail("the spindle_trio fixtures need pytest-trio: pip install pytest-trio", pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Let every test that asks for a fixture of ours, directly or not, run on a mock clock.

    pytest-trio takes the clock from the arguments of the test itself, not from those of its fixtures, and the runner
    from the closest ``trio`` mark. So this mark has to come before all others.
    """
    if not config.pluginmanager.hasplugin("trio"):
        return
    for item in items:
        if _needs_virtual_time(item):
            item.add_marker(pytest.mark.trio(run=_run_in_virtual_time), append=False)


def _needs_virtual_time(item: pytest.Item) -> bool:
    return not _VIRTUAL_TIME_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def _run_in_virtual_time(
    main: Callable[[], Awaitable[T]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """Run a test as `trio.run` does, by default on a clock that jumps."""
    import trio
    from trio.testing import MockClock

    return trio.run(main, clock=MockClock(autojump_threshold=0) if clock is None else clock, instruments=instruments)


def _make_sure_of_virtual_time() -> None:
    import trio
    from trio.testing import MockClock

    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock), (
        f"spindle_host runs in virtual time, and this test runs on {clock!r}: "
        "for real processes and real time, call spindle_trio.open_host() in the test"
    )
