"""A process of a fork server: what it is, and what it does not inherit."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from spindle_trio import LaunchError, open_host
from spindle_trio.launchers import ForkServerLauncher, PythonLauncher
from support.fork_server import ENDS, WAITS, children_of, fork_host, wait_until, write_module

SPARES = [0, 1]
"""A process that a launch asks for, and one that has waited for it, come about in different ways."""


pytestmark = pytest.mark.usefixtures("no_survivors")


# ---- what a process is given


@pytest.mark.parametrize("spares", SPARES)
async def test_a_process_has_the_environment_that_the_host_names_and_nothing_of_the_hosts_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spares: int
) -> None:
    """The kernel's view of the process (`/proc/self/environ`) is its server's, which has the short list as well."""
    monkeypatch.setenv("SPINDLE_SECRET", "told to nobody")
    async with fork_host(tmp_path, spares=spares, preload=("trio",), environment={"ONE": "1", "TZ": "UTC"}) as forked:
        await forked.wait_spares(spares)
        seen = await forked.result("""
            import os, subprocess, sys
            def run(process):
                process.ready()
                print_all = "import os; print(sorted(os.environ))"
                return [dict(os.environ), open("/proc/self/environ").read(), os.getenv("HOME"),
                        subprocess.check_output([sys.executable, "-S", "-c", print_all], text=True)]
        """)
    assert seen[0] == {"ONE": "1", "TZ": "UTC"}
    assert "SPINDLE_SECRET" not in seen[1]
    assert seen[2] is None
    assert "SPINDLE" not in seen[3]
    assert "ONE" in seen[3]


async def test_two_processes_of_one_server_have_an_environment_and_a_folder_each(tmp_path: Path) -> None:
    launcher = ForkServerLauncher(preload=(), spares=2)
    source = "import os, time\ndef run(process):\n    process.ready()\n    return [os.getcwd(), time.tzname[0]]"
    with trio.fail_after(20):
        async with open_host(launcher, environment={"TZ": "XYZ-3"}) as host:
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                (tmp_path / name / "entry.py").write_text(source)
                async with host.open_worker(name, root=tmp_path / name, user_id="ada") as worker:
                    handle = await worker.backend_processes.spawn("entry.py")
                    await handle.wait_ended()
                    assert handle.result == [str((tmp_path / name).resolve()), "XYZ"]


@pytest.mark.quick(2)
@pytest.mark.parametrize("spares", SPARES)
@pytest.mark.parametrize("head", ["def", "async def"])
async def test_the_surroundings_of_a_process_are_those_of_a_fresh_program(
    tmp_path: Path, spares: int, head: str
) -> None:
    async with fork_host(tmp_path, preload=("trio",), spares=spares) as forked:
        await forked.wait_spares(spares)
        (tmp_path / "entry.py").write_text(
            "import gc, os, random, signal, sys, trio\n"
            + f"{head} run(process):"
            + """
    process.ready()
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[name] = os.readlink("/proc/self/fd/" + name).split(":")[0].split(" ")[0]
        except OSError:
            pass
    handlers = {signal.Signals(number).name: str(signal.getsignal(number)) for number in range(1, 32)
                if signal.getsignal(number) not in (signal.SIG_DFL, None) and number not in (9, 19)}
    masked = list(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return {
        "session": [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()], "fds": fds, "handlers": handlers,
        "masked": masked, "wakeup": wakeup, "gc": gc.isenabled(), "frozen": gc.get_freeze_count() > 0,
        "comm": open("/proc/self/comm").read(), "umask": os.umask(0), "stdin": sys.stdin.read(),
        "garbage": len(gc.garbage), "threads": len(os.listdir("/proc/self/task")), "flags": sys.flags.safe_path,
    }
"""
        )
        handle = await forked.worker.backend_processes.spawn("entry.py")
        await handle.wait_ended()
    assert handle.state == "completed", handle.info.error
    seen = handle.result
    assert isinstance(seen, dict)
    fds, handlers, wakeup = seen.pop("fds"), seen.pop("handlers"), seen.pop("wakeup")
    assert isinstance(fds, dict)
    assert isinstance(handlers, dict)
    # Trio's own, if it runs: its wake-up descriptor, and its handler for Ctrl-C.
    is_async = head == "async def"
    assert set(handlers) == {"SIGINT", "SIGPIPE", "SIGXFSZ"}
    assert handlers["SIGPIPE"] == handlers["SIGXFSZ"] == "1"
    assert is_async or "default_int_handler" in str(handlers["SIGINT"])
    assert is_async == (wakeup != -1)
    assert [fds.pop(name) for name in "012"] == ["/dev/null", "pipe", "pipe"]
    # Beyond the lanes and the page, which is mapped, and open for a dump of the stacks: Trio's copies of the lanes,
    # its epoll, and its two pairs to be woken up by.
    of_trio = ["anon_inode", *["socket"] * 6] if is_async else []
    assert sorted(map(str, fds.values())) == sorted(["/memfd", "/memfd", "socket", "socket", "socket", *of_trio]), fds
    assert seen == {
        "session": [True, True],
        "masked": [],
        "gc": True,
        "frozen": True,
        "comm": "entry.py\n",
        "umask": 0o022,
        "stdin": "",
        "garbage": 0,
        "threads": 1,
        "flags": True,
    }


@pytest.mark.parametrize("spares", SPARES)
async def test_no_two_processes_draw_the_same_random_numbers(tmp_path: Path, spares: int) -> None:
    source = """
        import os, random, tempfile, uuid
        def run(process):
            process.ready()
            name = next(tempfile._get_candidate_names())
            return [random.random(), random.Random().random(), os.urandom(4).hex(), name, str(uuid.uuid1())]
    """
    async with fork_host(tmp_path, preload=("random", "tempfile", "uuid"), spares=spares) as forked:
        drawn = [await forked.result(source) for _ in range(3)]
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == 3


async def test_names_and_values_that_are_no_utf_8_reach_a_process_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"f\xfflder")
    root.mkdir()
    async with fork_host(root, environment={os.fsdecode(b"N\xfe"): os.fsdecode(b"v\xfd"), "EMPTY": ""}) as forked:
        seen = await forked.result(
            """
            import os
            def run(process):
                process.ready()
                return [os.getcwdb().hex(), os.environb[b"N\\xfe"].hex(),
                        __file__.encode("utf-8", "surrogateescape").hex(), os.environ["EMPTY"]]
            """,
            entry=os.fsdecode("entrée.py".encode()),
        )
    name = os.fsencode(root.resolve())
    assert seen == [name.hex(), b"v\xfd".hex(), (name + "/entrée.py".encode()).hex(), ""]


@pytest.mark.quick(4)
@pytest.mark.parametrize("environment", [{"A=B": "1"}, {"": "1"}, {"A\0": "1"}, {"A": "\0"}, {"A": "\ud800"}])
@pytest.mark.parametrize("kind", ["forked", "exec"])
async def test_what_no_environment_can_hold_is_a_failed_launch(
    tmp_path: Path, environment: dict[str, str], kind: str
) -> None:
    launcher = PythonLauncher() if kind == "exec" else ForkServerLauncher(preload=(), spares=1)
    (tmp_path / "entry.py").write_text(ENDS)
    with trio.fail_after(20):
        async with open_host(launcher, environment=environment) as host, host.open_worker("w", root=tmp_path) as worker:
            with pytest.raises(LaunchError, match=r"no environment can hold|surrogates not allowed"):
                await worker.backend_processes.spawn("entry.py", user_id="ada")


@pytest.mark.parametrize("kind", ["forked", "exec"])
async def test_a_root_that_has_vanished_is_a_failed_launch(tmp_path: Path, kind: str) -> None:
    launcher = PythonLauncher() if kind == "exec" else ForkServerLauncher(preload=(), spares=1)
    root = tmp_path / "root"
    other = tmp_path / "other"
    for folder in (root, other):
        folder.mkdir()
        (folder / "entry.py").write_text(ENDS)
    resolve = launcher.resolve
    with trio.fail_after(20):
        async with open_host(launcher) as host, host.open_worker("w", root=root, user_id="ada") as worker:
            launcher.resolve = lambda entry, _: resolve(entry, other)  # type: ignore[method-assign]
            (root / "entry.py").unlink()
            root.rmdir()
            with pytest.raises(LaunchError, match="FileNotFoundError"):
                await worker.backend_processes.spawn("entry.py")


# ---- spares


ASYNC = "async def run(process):\n    process.ready()\n    return 'async'"
BLOCKING = """
import trio
async def work(): return "blocking"
def run(process):
    process.ready()
    return trio.run(work)
"""


@pytest.mark.slow
@pytest.mark.parametrize("preload", [(), ("trio",)])
@pytest.mark.parametrize("spares", [0, 3])
async def test_both_kinds_of_entry_run_on_whatever_waits(tmp_path: Path, preload: tuple[str, ...], spares: int) -> None:
    async with fork_host(tmp_path, preload=preload, spares=spares) as forked:
        for source, result in [(ASYNC, "async"), (BLOCKING, "blocking")] * 2:
            await forked.wait_spares(spares)
            assert await forked.result(source) == result


@pytest.mark.quick(1)
@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("head", ["def", "async def"])
async def test_context_variables_that_the_module_level_has_set_hold_in_the_entry(
    tmp_path: Path, head: str, spares: int
) -> None:
    """As `decimal` keeps its precision. In a spare, the module level of a blocking entry is run in another context."""
    async with fork_host(tmp_path, preload=("trio",), spares=spares) as forked:
        await forked.wait_spares(spares)
        source = f"""
            import decimal
            decimal.getcontext().prec = 3
            {head} run(process):
                process.ready()
                return str(decimal.Decimal(1) / 3)
        """
        assert await forked.result(source) == "0.333"


async def test_spares_are_processes_that_wait_and_the_next_launches_take_them(tmp_path: Path) -> None:
    async with fork_host(tmp_path, preload=("trio",), spares=2) as forked:
        await forked.wait_spares(2)
        waiting = [spare.pid for spare in forked.launcher._pool.spares]
        # Of two entries: a later spare would be prepared for the first one, and taken for it.
        handles = [await forked.spawn(WAITS, entry=entry) for entry in ("one.py", "two.py")]
        assert [handle._process.record.launched.pid for handle in handles] == waiting  # type: ignore[attr-defined]
        await forked.wait_spares(2)
        assert not {spare.pid for spare in forked.launcher._pool.spares} & set(waiting)


async def test_a_burst_that_uses_up_the_spares_is_followed_by_new_ones_without_another_launch(tmp_path: Path) -> None:
    async with fork_host(tmp_path, spares=3) as forked:
        (tmp_path / "entry.py").write_text(WAITS)
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(forked.worker.backend_processes.spawn, "entry.py")
        await forked.wait_spares(3)


async def test_a_spare_that_has_died_is_used_by_nobody(tmp_path: Path) -> None:
    async with fork_host(tmp_path, spares=3) as forked:
        await forked.wait_spares(3)
        dead = [forked.launcher._pool.spares[index] for index in (0, 1)]
        for spare in dead:
            os.kill(spare.pid, signal.SIGKILL)
            await trio.lowlevel.wait_readable(spare.pidfd)
        last = forked.launcher._pool.spares[2].pid
        handle = await forked.spawn(WAITS)
        assert handle._process.record.launched.pid == last  # type: ignore[attr-defined]
        await forked.wait_spares(3)
        for spare in forked.launcher._pool.spares:
            os.kill(spare.pid, signal.SIGKILL)
            await trio.lowlevel.wait_readable(spare.pidfd)
        assert await forked.result(ENDS) is None
        await wait_until(lambda: set(children_of(forked.server_pid)).isdisjoint({spare.pid for spare in dead}))


async def test_a_server_without_spares_forks_for_each_launch_and_no_more(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        assert children_of(forked.server_pid) == []
        await forked.spawn(WAITS)
        assert len(children_of(forked.server_pid)) == 1


# ---- what is preloaded


async def test_a_lean_server_has_loaded_neither_trio_nor_attrs_and_another_one_what_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = write_module(tmp_path, monkeypatch, "import os\nloaded_in = os.getpid()")
    source = "import sys\ndef run(process):\n    process.ready()\n    return sorted(sys.modules)"
    launchers = [ForkServerLauncher(preload=(), spares=1), ForkServerLauncher(preload=("trio", module), spares=1)]
    (tmp_path / "entry.py").write_text(source)
    loaded = []
    with trio.fail_after(20):
        async with open_host(launchers[0]) as one, open_host(launchers[1]) as other:
            for host in (one, other):
                async with host.open_worker("w", root=tmp_path, user_id="ada") as worker:
                    handle = await worker.backend_processes.spawn("entry.py")
                    await handle.wait_ended()
                    loaded.append(set(handle.result))  # type: ignore[arg-type]
            assert launchers[0].server_pid != launchers[1].server_pid
    assert loaded[0].isdisjoint({"trio", "attr", "attrs", "asyncio", "socket", "subprocess", "json", module})
    assert {"trio", module} <= loaded[1]


# ---- hosts and threads


def test_one_program_runs_trio_twice_and_in_another_thread_each_time_with_a_host(tmp_path: Path) -> None:
    async def once() -> object:
        async with fork_host(tmp_path, spares=1) as forked:
            return await forked.result("def run(process):\n    process.ready()\n    return 'fine'")

    assert [trio.run(once), trio.run(once)] == ["fine", "fine"]
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(trio.run(once)))
    thread.start()
    thread.join()
    assert results == ["fine"]


async def test_a_launcher_serves_one_host_after_the_other(tmp_path: Path) -> None:
    launcher = ForkServerLauncher(preload=(), spares=1)
    (tmp_path / "entry.py").write_text(ENDS)
    with trio.fail_after(20):
        for _ in range(2):
            async with open_host(launcher) as host, host.open_worker("w", root=tmp_path, user_id="ada") as worker:
                await (await worker.backend_processes.spawn("entry.py")).wait_ended()


async def test_a_launcher_refuses_a_second_host_at_the_same_time(tmp_path: Path) -> None:
    launcher = ForkServerLauncher(preload=(), spares=0)
    with trio.fail_after(20):
        async with open_host(launcher):
            with pytest.raises(RuntimeError, match="serves a host already"):
                async with open_host(launcher):
                    raise AssertionError("opened")


@pytest.mark.parametrize("environment", [{"A": 1}, {1: "A"}, {"A": None}])
def test_an_environment_that_holds_something_else_than_texts_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="environment must map str to str"):
        open_host(environment=environment)


async def test_a_mock_clock_is_refused(mock_clock: trio.testing.MockClock) -> None:
    with pytest.raises(RuntimeError, match=r"ForkServerLauncher starts real processes, .* mock clock"):
        await ForkServerLauncher().start()


async def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RuntimeError, match=r"ForkServerLauncher needs Linux .* and this is darwin"):
        await ForkServerLauncher().start()


@pytest.mark.parametrize("preload", ["trio", [1], [None]])
def test_a_preload_that_is_no_list_of_names_is_refused(preload: object) -> None:
    with pytest.raises(TypeError, match="preload must"):
        ForkServerLauncher(preload=preload)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("spares", [-1, 1.0, True, None])
def test_a_number_of_spares_that_is_none_is_refused(spares: object) -> None:
    with pytest.raises(ValueError, match="spares must"):
        ForkServerLauncher(spares=spares)  # type: ignore[arg-type]  # on purpose
