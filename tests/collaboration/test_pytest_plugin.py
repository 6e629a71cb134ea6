"""The pytest plugin: fixtures in virtual time, here and in a project of somebody else's."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

import pytest
import trio
from trio.testing import MockClock

import spindle_trio as spindle
from spindle_trio import Host, ProcessState, Worker
from spindle_trio.child import ProcessContext
from spindle_trio.testing import ScriptedProgram

pytest_plugins = ["pytester"]


async def wedged(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep_forever()


@pytest.fixture
def spindle_entries() -> Mapping[str, object]:
    return {"wedged": wedged}


async def sleeper(program: ScriptedProgram) -> int:
    await trio.sleep(60)
    return 0


@pytest.fixture
def spindle_commands() -> Mapping[str, object]:
    return {"sleeper": sleeper}


async def test_the_worker_has_programs(spindle_worker: Worker) -> None:
    handle = await spindle_worker.backend_processes.spawn(spindle.Command(["sleeper", "60"]))
    info = await handle.wait_ended()
    assert (info.state, trio.current_time()) == (ProcessState.COMPLETED, 60)


async def test_the_worker_lives_in_virtual_time(spindle_worker: Worker) -> None:
    handle = await spindle_worker.backend_processes.spawn("wedged", heartbeat_timeout=15)
    before = trio.current_time()
    info = await handle.wait_ended()
    assert info.state is ProcessState.TIMED_OUT
    assert info.user_id == "test-user"
    assert trio.current_time() - before == 15


async def test_the_host_may_have_workers_of_the_tests_own(spindle_host: Host) -> None:
    assert isinstance(trio.lowlevel.current_clock(), MockClock)
    async with spindle_host.open_worker("another") as worker:
        handle = await worker.backend_processes.spawn("wedged", user_id="bob")
        assert handle.info.user_id == "bob"


async def test_a_clock_of_the_tests_own_is_used(mock_clock: MockClock, spindle_worker: Worker) -> None:
    assert trio.lowlevel.current_clock() is mock_clock
    handle = await spindle_worker.backend_processes.spawn("wedged")
    mock_clock.jump(15)
    assert (await handle.wait_ended()).state is ProcessState.TIMED_OUT


async def test_real_processes_are_refused_in_virtual_time(spindle_worker: Worker) -> None:
    with pytest.raises(RuntimeError, match="mock clock"):
        async with spindle.open_host(spindle.PythonLauncher()):
            raise AssertionError("opened")


def run_in(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run tests as with the library installed, in an interpreter of their own."""
    # If the library is installed, its entry point loads the plugin.
    is_installed = any(entry.name == "spindle_trio" for entry in importlib.metadata.entry_points(group="pytest11"))
    plugin = () if is_installed else ("-p", "spindle_trio.pytest_plugin")
    return pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", *plugin, *options)


ECHO = """
import pytest, trio

async def echo(process):
    process.ready()
    async for message in process.messages():
        await process.send(message)

@pytest.fixture
def spindle_entries():
    return {"echo": echo}

async def test_echo(spindle_worker):
    handle = await spindle_worker.backend_processes.spawn("echo", heartbeat_timeout=1e6)
    await handle.send([1])
    assert await handle.messages().receive() == [1]
    await trio.sleep(100_000)
"""
NO_ENTRIES = """
import pytest, spindle_trio

async def test_nothing_there(spindle_worker):
    with pytest.raises(spindle_trio.EntryError, match="it has: none"):
        await spindle_worker.backend_processes.spawn("echo")
"""
STUBBORN = """
import pytest, trio

async def stubborn(process):
    process.ready()
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

@pytest.fixture
def spindle_entries():
    return {"stubborn": stubborn}

async def test_stubborn(spindle_worker):
    await spindle_worker.backend_processes.spawn("stubborn")
"""
REAL_CLOCK = """
import pytest, trio

class RealClock(trio.abc.Clock):
    def start_clock(self): ...
    def current_time(self): return 0.0
    def deadline_to_sleep_time(self, deadline): return 0.1

@pytest.fixture
def real_clock():
    return RealClock()

async def test_it(real_clock, spindle_worker): ...
"""


@pytest.mark.slow
def test_another_project_needs_no_configuration_and_is_told_what_it_does_wrong(pytester: pytest.Pytester) -> None:
    """An entry that withstands its kill fails the test that ran it; the worker refuses a clock that is real."""
    pytester.makepyfile(test_echo=ECHO, test_no_entries=NO_ENTRIES, test_stubborn=STUBBORN, test_real_clock=REAL_CLOCK)
    result = run_in(pytester, "-rA")
    assert result.ret != 0
    passed = [line for line in result.outlines if line.startswith("PASSED")]
    assert passed == ["PASSED test_echo.py::test_echo", "PASSED test_no_entries.py::test_nothing_there"]
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines_random(
        ["*the entry 'stubborn' * is shielded*", "*spindle_host runs in virtual time*"],
    )


def test_without_pytest_trio_tests_are_told_what_to_install_and_others_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        async def test_async(spindle_worker): ...

        def test_plain(spindle_host): ...

        def test_of_something_else(): ...
        """
    )
    result = run_in(pytester, "-p", "no:trio", "-W", "error")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*need pytest-trio: pip install pytest-trio*"])
    result.stdout.no_fnmatch_line("*Warning*")
