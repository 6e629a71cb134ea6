"""How a program is started, what it finds, and what its end means."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from spindle_trio import Containment, EntryError, Line, StartupFailedError
from support.containment import levels, require
from support.fork_server import fork_host, wait_until
from support.programs import SHIM, python_program, script, spawn_command, spawn_shim, spec_of

pytestmark = pytest.mark.usefixtures("no_survivors")

SAYS = """
import json, os, signal, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
facts = {
    "argv": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ),
    "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
    "stdin": os.readlink("/proc/self/fd/0"),
    "blocked": status["SigBlk"], "ignored": status["SigIgn"],
    "umask": status["Umask"],
}
print(json.dumps(facts), file=open(os.environ["SAYS"], "w"))
"""


async def facts_of(tmp_path: Path, arguments: list[str] = [], **spec: Any) -> dict[str, Any]:  # noqa: B006
    """Run a program that writes down what it finds."""
    async with fork_host(tmp_path) as forked:
        variables = {"SAYS": str(tmp_path / "facts.json")} | spec.pop("variables", {})
        argv = [*python_program(tmp_path, SAYS), *arguments]
        handle = await spawn_command(forked, argv, variables=variables, **spec)
        info = await handle.wait_ended()
        assert info.state == "completed", handle.post_mortem
        found: dict[str, Any] = json.loads((tmp_path / "facts.json").read_text())
        return found


async def test_a_program_gets_its_arguments_variables_and_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    found = await facts_of(tmp_path, ["a b", "ü"], folder="inner", variables={"COLOUR": "blue"})
    assert found["argv"][1:] == ["a b", "ü"]
    assert found["folder"] == str(tmp_path / "inner")
    assert found["environment"]["COLOUR"] == "blue"
    assert "NOTIFY_SOCKET" not in found["environment"]
    assert "WATCHDOG_USEC" not in found["environment"]


@pytest.mark.slow
async def test_a_program_without_a_folder_runs_in_the_root(tmp_path: Path) -> None:
    assert (await facts_of(tmp_path))["folder"] == str(tmp_path)


@pytest.mark.quick(1)
@pytest.mark.parametrize("lane", ["none", "lines"])
@pytest.mark.parametrize("ready", ["started", "line"])
async def test_a_program_inherits_three_descriptors(tmp_path: Path, lane: str, ready: str) -> None:
    readiness = Line("never") if ready == "line" else "started"
    async with fork_host(tmp_path) as forked:
        argv = python_program(tmp_path, SAYS)
        spec: dict[str, Any] = {"variables": {"SAYS": str(tmp_path / "facts.json")}, "lane": lane, "ready": readiness}
        if ready == "line":
            with pytest.raises(StartupFailedError, match="exited with code 0 before it was ready"):
                await spawn_command(forked, argv, **spec)
        else:
            await (await spawn_command(forked, argv, **spec)).wait_ended()
    found = json.loads((tmp_path / "facts.json").read_text())
    assert found["descriptors"] == [0, 1, 2]
    assert (found["stdin"] == os.devnull) == (lane == "none")


async def test_a_program_has_each_signal_as_by_default_and_none_blocked(tmp_path: Path) -> None:
    # Not what Python itself ignores, which a program in Python does from its start.
    async with fork_host(tmp_path) as forked:
        argv = ["sh", "-c", f"grep -E '^Sig(Blk|Ign)' /proc/self/status > {tmp_path}/signals"]
        await (await spawn_command(forked, argv)).wait_ended()
    blocked, ignored = (line.split()[1] for line in (tmp_path / "signals").read_text().splitlines())
    assert int(blocked, 16) == 0
    assert int(ignored, 16) == 0


async def test_what_the_hosts_manager_has_told_it_is_not_for_programs(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    async with fork_host(tmp_path, environment={**os.environ, "NOTIFY_SOCKET": "/run/x", "LISTEN_FDS": "1"}) as forked:
        await (await spawn_command(forked, ["sh", "-c", "env > out/env"])).wait_ended()
    text = (tmp_path / "out" / "env").read_text()
    assert "NOTIFY_SOCKET" not in text
    assert "LISTEN_FDS" not in text


# What its end means.


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("line", "state", "error"),
    [
        ("exit 0", "completed", None),
        ("exit 3", "failed", "exited with code 3"),
        ("kill -SEGV $$", "failed", "killed by SIGSEGV"),
        ("kill -KILL $$", "failed", "killed by SIGKILL"),
        ("kill -TERM $$", "failed", "killed by SIGTERM"),
    ],
)
async def test_the_end_of_a_program_is_told_in_words(tmp_path: Path, line: str, state: str, error: str | None) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, ["sh", "-c", f"ulimit -c 0; echo oh dear >&2; {line}"])
        info = await handle.wait_ended()
    assert info.state == state
    assert (info.error or "").startswith(error or "")
    if error is not None:
        assert handle.post_mortem is not None
        assert "oh dear" in handle.post_mortem.stderr


async def test_the_exit_code_of_a_program_is_that_of_its_process(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, ["sh", "-c", "exit 42"])
        await handle.wait_ended()
    assert handle.post_mortem is not None
    assert handle.post_mortem.exit_status == "exited with code 42"


async def test_what_a_program_prints_is_kept_as_an_entrys_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spindle_trio.process.stdout")
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, ["sh", "-c", "echo to stdout; echo to stderr >&2; exit 1"])
        await handle.wait_ended()
    assert "to stdout" in caplog.text
    assert handle.post_mortem is not None
    assert handle.post_mortem.stderr == "to stderr"


# A stop.


@pytest.mark.quick(1)
@levels()
async def test_a_stop_is_the_programs_signal(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    source = """
    import signal, sys
    def end(*_):
        open("stopped", "w").write("by USR1")
        sys.exit(0)
    signal.signal(signal.SIGUSR1, end)
    print("up", flush=True)
    while True: signal.pause()
    """
    async with fork_host(tmp_path, containment=level, grace_period=10) as forked:
        handle = await spawn_command(
            forked,
            python_program(tmp_path, source),
            stop_signal=signal.SIGUSR1,
            ready=Line("up"),
        )
        await handle.stop()
    assert (tmp_path / "stopped").read_text() == "by USR1"
    assert handle.state == "completed", handle.info.error


@pytest.mark.quick(1)
@pytest.mark.parametrize("end", ["kill -TERM $$", "exit 143"])
async def test_a_program_that_ends_by_the_signal_of_its_stop_has_stopped(tmp_path: Path, end: str) -> None:
    line = f"trap 'trap - TERM; {end}' TERM; echo up; while :; do sleep 0.01; done"
    async with fork_host(tmp_path, grace_period=10) as forked:
        handle = await spawn_command(forked, ["sh", "-c", line], ready=Line("up"))
        await handle.stop()
    assert handle.state == "stopped", handle.info.error
    assert handle.info.error is None


@pytest.mark.slow
async def test_a_program_that_fails_while_it_is_stopped_has_failed(tmp_path: Path) -> None:
    line = "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done"
    async with fork_host(tmp_path, grace_period=10) as forked:
        handle = await spawn_command(forked, ["sh", "-c", line], ready=Line("up"))
        await handle.stop()
    assert handle.state == "failed"
    assert handle.info.error == "exited with code 7"


async def test_a_program_that_ignores_its_stop_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    line = "trap '' TERM; echo up; while :; do sleep 0.01; done"
    async with fork_host(tmp_path, grace_period=0.1) as forked:
        handle = await spawn_command(forked, ["sh", "-c", line], ready=Line("up"))
        await handle.stop()
    assert handle.state == "stopped"
    assert handle.info.error is not None


async def test_a_stop_before_it_is_ready_reaches_a_program(tmp_path: Path) -> None:
    line = "trap 'touch told; exit 0' TERM; touch up; while :; do sleep 0.01; done"
    async with fork_host(tmp_path, grace_period=10) as forked, trio.open_nursery() as nursery:
        nursery.start_soon(_spawn_in_vain, forked, ["sh", "-c", line])
        await wait_until((tmp_path / "up").exists)
        (info,) = await forked.worker.backend_processes.list()
        await forked.worker.backend_processes.stop(info.process_id)
    assert (tmp_path / "told").exists()
    assert [event.state for event in forked.events] == ["starting", "stopping", "stopped"]


async def _spawn_in_vain(forked: Any, argv: list[str]) -> None:
    from spindle_trio import StartupCancelledError

    with pytest.raises(StartupCancelledError):
        await spawn_command(forked, argv, ready=Line("never"))


async def test_a_signal_to_the_whole_group_leaves_the_shim_alone(tmp_path: Path) -> None:
    line = "trap 'exit 5' TERM; kill -TERM 0; sleep 5"
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, ["sh", "-c", line])
        info = await handle.wait_ended()
    assert info.error == "exited with code 5"


# What cannot be started.


def _write(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_bytes(text.encode())
    path.chmod(mode)


CANNOT: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda _: None, "there is no '{path}'"),
    "folder": (lambda path: path.mkdir(), "does not run '{path}': Permission denied"),
    "data": (lambda path: _write(path, "just text\n", 0o644), "does not run '{path}': Permission denied"),
    "text": (lambda path: _write(path, "just text\n"), "is no program that this system runs"),
    "empty": (lambda path: _write(path, ""), "is no program that this system runs"),
    "broken": (lambda path: _write(path, "#!/no/such/shell\n"), "the interpreter '/no/such/shell'"),
    "windows": (lambda path: _write(path, "#!/bin/sh\r\n"), "ends in a carriage return"),
    "itself": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", CANNOT)
async def test_a_program_that_cannot_be_started_says_why(tmp_path: Path, name: str) -> None:
    # As the shim finds it, after the host has looked.
    make, says = CANNOT[name]
    path = tmp_path / name
    make(path)
    async with fork_host(tmp_path) as forked:
        with pytest.raises(StartupFailedError) as caught:
            await spawn_shim(forked, [str(path)], program=str(path))
        # The host goes on.
        handle = await spawn_command(forked, ["true"])
        assert (await handle.wait_ended()).state == "completed"
    assert f"'{path}' could not be started: " in str(caught.value)
    assert says.format(path=path) in str(caught.value)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", CANNOT)
async def test_a_host_refuses_it_or_its_start_fails(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    CANNOT[name][0](path)
    error = EntryError if name in ("absent", "folder", "data", "itself") else StartupFailedError
    async with fork_host(tmp_path) as forked:
        with pytest.raises(error, match=name):
            await spawn_command(forked, [f"./{name}"])
        assert await forked.worker.backend_processes.list() == []


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        with pytest.raises(StartupFailedError, match=r"its folder .*nowhere.* cannot be entered: No such file"):
            await spawn_shim(forked, ["true"], folder=tmp_path / "nowhere")


async def test_arguments_that_are_too_long_are_refused_by_the_system(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        with pytest.raises(StartupFailedError, match="arguments and variables are too long"):
            await spawn_shim(forked, ["true", "x" * 200_000])


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "it is not JSON"),
        ("[]", "not an object"),
        (json.dumps({"argv": []}), "argv"),
        (spec_of(["true"], lane="pigeons"), "lane is 'pigeons', not one of none, bytes, lines"),
        (spec_of(["true"], ready="soon"), "kind is 'soon', not one of started"),
        (spec_of(["true"], ready="notify"), "it has no notifyFolder"),
        (spec_of(["true"], privileges="all"), "the unknown field 'privileges'"),
    ],
)
async def test_a_shim_refuses_an_argument_that_is_no_command(tmp_path: Path, text: str, says: str) -> None:
    async with fork_host(tmp_path) as forked:
        with pytest.raises(StartupFailedError, match=says):
            await forked.spawn(SHIM, arguments=[text])


# Neither outlives the other.


@pytest.mark.quick(1)
@levels()
async def test_a_program_dies_with_its_shim(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    line = "trap '' HUP INT TERM; (trap '' HUP INT TERM; sleep 1000) & echo up; wait; sleep 1000"
    async with fork_host(tmp_path, containment=level) as forked:
        handle = await spawn_command(forked, ["sh", "-c", line], ready=Line("up"))
        assert handle.pid is not None
        os.kill(handle.pid, signal.SIGKILL)
        info = await handle.wait_ended()
    assert info.state == "failed"
    assert "killed by SIGKILL" in (info.error or "")
    # And what it has started: `no_survivors` looks.


@pytest.mark.quick(1)
@levels()
async def test_what_a_program_leaves_behind_dies_with_it(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    source = f"""
    import os, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in 0, 1, 2: os.close(fd)
            open({str(tmp_path / "daemon")!r}, "w").write(str(os.getpid()))
            time.sleep(1000)
        os._exit(0)
    os.wait()
    while not os.path.exists({str(tmp_path / "daemon")!r}): time.sleep(0.001)
    """
    async with fork_host(tmp_path, containment=level) as forked:
        handle = await spawn_command(forked, python_program(tmp_path, source))
        assert (await handle.wait_ended()).state == "completed"
    assert (tmp_path / "daemon").exists()


@pytest.mark.quick(1)
@levels(Containment.KILLPG)
async def test_orphans_of_a_program_are_reaped_while_it_runs(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    source = """
    import os, signal
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
    print("up", flush=True)
    signal.pause()
    """
    async with fork_host(tmp_path, containment=level) as forked:
        handle = await spawn_command(forked, python_program(tmp_path, source), ready=Line("up"))
        shim = handle.pid
        await wait_until(lambda: len(Path(f"/proc/{shim}/task/{shim}/children").read_text().split()) == 1)
        await handle.stop()


async def test_a_script_is_started_by_its_first_line(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, script(tmp_path, f"#!{sys.executable}\nraise SystemExit(9)"))
        assert (await handle.wait_ended()).error == "exited with code 9"
