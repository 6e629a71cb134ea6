"""Modules that misbehave when a fork server loads them: one clear error, and nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio
import trio.testing

import spindle_trio
from spindle_trio import DEFAULT_PRELOAD, Containment, DefaultLauncher, ForkServerLauncher, open_host
from spindle_trio.launchers._local import _fork_server_start
from support.fork_server import fork_host, wait_until, write_module
from support.leftovers import open_descriptors

pytestmark = pytest.mark.usefixtures("no_survivors")


async def refusal(tmp_path: Path, *preload: str) -> str:
    """Open a host that cannot be opened, and return what it says."""
    with pytest.raises(RuntimeError) as caught:
        async with fork_host(tmp_path, preload=preload):
            raise AssertionError("opened")
    return str(caught.value)


@pytest.mark.quick(8)
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "1 thread"),
        ("import os\nfd = os.open('/dev/zero', 0)", "/dev/zero"),
        ("import socket\npair = socket.socketpair()", "descriptors"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class Strange(Exception):\n    def __str__(self): raise ValueError\nraise Strange", "Strange"),
        ("raise ValueError('\\udc80 lone')", "ValueError: "),
        ("raise ValueError('long' * 100_000)", "ValueError: longlong"),
        ("import os\nos._exit(7)", "ended while"),
        ("import ctypes\nctypes.string_at(0)", "ended while"),
        ("import os\nos.closerange(3, 100)", "ended while"),
        ("import os\nos.close(0)", "closed descriptors that processes need: [0]"),
        ("import os\nos.closerange(0, 3)", "closed descriptors that processes need: [0, 1, 2]"),
        ("import sys\nsys.stdout.close()", "closed"),
        ("import sys\nsys.stderr = None", "sys.stderr"),
        ("import subprocess\nproc = subprocess.Popen(['sleep', '60'])", "process"),
        ("import os\nif os.fork() == 0:\n    import time; time.sleep(60)", "process"),
    ],
)
async def test_a_module_that_makes_forking_unsafe_or_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, text: str
) -> None:
    module = write_module(tmp_path, monkeypatch, source)
    said = await refusal(tmp_path, "json", module, "csv")
    assert text in said
    assert f"'{module}'" in said
    assert len(said) < 5_000


@pytest.mark.parametrize("name", ["no_such_module", "no.such", "", ".relative", "json.no_such", "a b", "\udc80"])
async def test_a_name_of_no_module_is_named(tmp_path: Path, name: str) -> None:
    assert f"the module {name!r} cannot be preloaded" in await refusal(tmp_path, name)


async def test_a_module_that_hangs_is_named_when_the_patience_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fork_server_start, "START_SECONDS", 0.5)
    module = write_module(tmp_path, monkeypatch, "import time; time.sleep(3600)")
    said = await refusal(tmp_path, module)
    assert "after 0.5 s" in said
    assert f"'{module}'" in said


@pytest.mark.slow
async def test_a_host_that_is_cancelled_while_it_opens_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = write_module(
        tmp_path,
        monkeypatch,
        f"""
        import time
        open({str(tmp_path / "loading")!r}, "w").close()
        time.sleep(3600)
    """,
    )
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await wait_until((tmp_path / "loading").exists)
                scope.cancel()

            nursery.start_soon(cancel)
            async with fork_host(tmp_path, preload=(module,)):
                raise AssertionError("opened")
    assert scope.cancelled_caught


SEES_ALL = Containment.KILLPG
"""A level at which a module can send a signal to the test: in a namespace it has no number for it."""


@pytest.mark.slow
def test_ctrl_c_while_a_host_opens_comes_out_bare_and_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = write_module(
        tmp_path,
        monkeypatch,
        f"""
        import os, signal, time
        os.kill({os.getpid()}, signal.SIGINT)
        time.sleep(3600)
    """,
    )

    async def open_one() -> None:
        async with fork_host(tmp_path, preload=(module,), containment=SEES_ALL):
            raise AssertionError("opened")

    with pytest.raises(KeyboardInterrupt):
        trio.run(open_one)


def test_an_impatient_ctrl_c_while_a_host_opens_leaves_no_server_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes while the server is being ended, for which it takes its time, since it is busy."""
    monkeypatch.setattr(_fork_server_start, "END_SECONDS", 0.5)
    module = write_module(
        tmp_path,
        monkeypatch,
        f"""
        import os, signal, time
        os.kill({os.getpid()}, signal.SIGINT)
        time.sleep(0.1)
        os.kill({os.getpid()}, signal.SIGINT)
        time.sleep(3600)
    """,
    )
    before = open_descriptors()

    async def open_one() -> None:
        async with fork_host(tmp_path, preload=(module,), containment=SEES_ALL):
            raise AssertionError("opened")

    with pytest.raises(KeyboardInterrupt):
        trio.run(open_one)
    assert open_descriptors() <= before


async def test_much_that_a_module_prints_does_not_hold_up_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe that nobody reads takes 64 KiB, and then the server would wait for good."""
    monkeypatch.setattr(_fork_server_start, "START_SECONDS", 5)
    module = write_module(tmp_path, monkeypatch, "import sys\nprint('x' * 300_000)\nsys.stderr.write('y' * 300_000)")
    async with fork_host(tmp_path, preload=(module,)) as forked:
        assert await forked.result("def run(process):\n    process.ready()\n    return 1") == 1


async def test_what_a_module_prints_without_an_end_of_the_line_appears_once_and_in_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "spindle_trio.process")
    module = write_module(tmp_path, monkeypatch, "import sys\nprint('loaded', end='')\nsys.stderr.write('unbuffered')")
    async with fork_host(tmp_path, preload=(module,), spares=1) as forked:
        for _ in range(3):
            handle = await forked.spawn("def run(process):\n    process.ready()\n    print('of the entry')")
            await handle.wait_ended()
            launched = handle._process.record.launched  # type: ignore[attr-defined]  # the port of a worker in this program
            assert launched.stdout_tail() == "of the entry\n"
            assert launched.stderr_tail() == ""
    printed = [record.getMessage() for record in caplog.records if "loaded" in record.getMessage()]
    assert len(printed) == 1
    assert "loadedunbuffered" in printed[0]


@pytest.mark.parametrize("spares", [0, 1])
async def test_what_a_module_changes_of_the_program_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spares: int
) -> None:
    """Signals, the environment and the search path; an entry cannot tell which module has been loaded before it."""
    module = write_module(
        tmp_path,
        monkeypatch,
        """
        import gc, os, signal, sys
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, lambda *_: print("handled"))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        os.environ["SET_BY_MODULE"] = "1"
        os.environ.pop("PATH", None)
        sys.path.insert(0, "/no/such/folder")
        sys.argv.append("more")
        gc.disable()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    """,
    )
    async with fork_host(tmp_path, preload=(module,), spares=spares) as forked:
        await trio.testing.wait_all_tasks_blocked(0.1)  # the timer, if it still ran, would end the server
        server_pid = forked.server_pid
        seen = await forked.result("""
            import gc, os, signal, sys
            def run(process):
                process.ready()
                default = [signal.getsignal(number) == signal.SIG_DFL for number in
                           (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGHUP)]
                return [default, signal.getsignal(signal.SIGINT) is signal.default_int_handler,
                        signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN,
                        list(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))), "SET_BY_MODULE" in os.environ,
                        "PATH" in os.environ, "/no/such/folder" in sys.path, sys.argv, gc.isenabled()]
        """)
        assert forked.server_pid == server_pid
    assert seen == [[True] * 4, True, True, [], False, True, False, ["entry.py"], True]


async def test_a_module_that_replaces_the_search_path_hurts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = write_module(tmp_path, monkeypatch, "import sys\nsys.path = []")
    async with fork_host(tmp_path, preload=("trio", module), spares=1) as forked:
        source = "import colorsys\nasync def run(process):\n    process.ready()\n    return colorsys.__name__"
        assert await forked.result(source) == "colorsys"


async def test_a_thread_that_was_there_before_any_module_is_blamed_on_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `sitecustomize` runs in each interpreter that finds one, with or without a preload."""
    write_module(
        tmp_path,
        monkeypatch,
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        name="sitecustomize",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    for preload in ((), ("json",)):
        said = await refusal(tmp_path, *preload)
        assert "sitecustomize" in said
        assert "json" not in said


# ---- its surroundings


async def test_numpy_can_be_preloaded_as_the_readme_says_and_computes_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_text(
        "import sys\n"
        "async def run(process):\n"
        "    loaded = 'numpy' in sys.modules\n"
        "    import numpy\n"
        "    process.ready()\n"
        "    a = numpy.ones((200, 200))\n"
        "    return [loaded, float((a @ a).sum())]\n"
    )
    launcher = DefaultLauncher(
        preload=(*DEFAULT_PRELOAD, "numpy"), preload_environment={"OPENBLAS_NUM_THREADS": "1"}, spares=1
    )
    with trio.fail_after(30):
        async with open_host(launcher) as host, host.open_worker("tests", root=tmp_path, user_id="ada") as worker:
            for _ in range(2):
                handle = await worker.backend_processes.spawn("entry.py")
                await handle.wait_ended()
                assert handle.result == [True, 8_000_000.0], handle.info.error


async def test_no_two_processes_draw_the_same_numbers_from_a_numpy_that_was_preloaded(tmp_path: Path) -> None:
    draws = """
        import sys
        def run(process):
            loaded = "numpy.random" in sys.modules
            process.ready()
            return [loaded, float(sys.modules["numpy"].random.random())]
    """
    async with fork_host(
        tmp_path, preload=("numpy.random",), preload_environment={"OPENBLAS_NUM_THREADS": "1"}
    ) as forked:
        first, second = [await forked.result(draws) for _ in range(2)]
    assert first[0]
    assert second[0]
    assert first[1] != second[1]


async def test_a_module_that_starts_threads_is_named_with_what_keeps_it_from_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = write_module(
        tmp_path,
        monkeypatch,
        """
        import os, threading, time
        if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    """,
    )
    said = await refusal(tmp_path, module)
    assert f"the module {module!r} has started 1 thread(s)" in said
    assert 'preload_environment={"OPENBLAS_NUM_THREADS": "1"}' in said
    async with fork_host(tmp_path, preload=(module,), preload_environment={"OPENBLAS_NUM_THREADS": "1"}):
        pass


@pytest.mark.parametrize("spares", [0, 1])
async def test_variables_for_the_preload_are_there_while_it_runs_and_in_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spares: int
) -> None:
    monkeypatch.setenv("LC_OF_THE_HOST", "host")
    module = write_module(
        tmp_path,
        monkeypatch,
        "import os\nseen = [os.environ.get(name) for name in ('LOADING', 'LC_OF_THE_HOST')]",
    )
    async with fork_host(
        tmp_path,
        preload=(module,),
        preload_environment={"LOADING": "yes", "LC_OF_THE_HOST": "server"},
        spares=spares,
    ) as forked:
        await forked.wait_spares(spares)
        result = await forked.result(f"""
            import os, {module}
            def run(process):
                process.ready()
                return [*{module}.seen, os.environ.get("LOADING"), os.environ.get("LC_OF_THE_HOST")]
        """)
    assert result == ["yes", "server", None, "host"]


async def test_modules_are_found_in_folders_that_no_process_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "beside the program"
    folder.mkdir()
    (folder / "found_beside.py").write_text("value = 7")
    assert "preload_path=[…]" in await refusal(tmp_path, "found_beside")
    monkeypatch.chdir(tmp_path)
    async with fork_host(tmp_path, preload=("found_beside",), preload_path=[Path(folder.name)]) as forked:
        result = await forked.result("""
            import sys
            loaded = "found_beside" in sys.modules
            import found_beside
            def run(process):
                process.ready()
                return [loaded, found_beside.value, [folder for folder in sys.path if "beside" in folder]]
        """)
    assert result == [True, 7, []]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"preload_path": "/modules"},
            TypeError,
            r"preload_path must be a collection of folders, not one: write \['/modules'\]",
        ),
        ({"preload_path": Path("/modules")}, TypeError, "a collection of folders"),
        ({"preload_path": [1]}, TypeError, r"preload_path must hold folders, not \(1,\)"),
        ({"preload_environment": {"THREADS": 1}}, TypeError, "preload_environment must map str to str"),
        ({"preload_environment": {"A=B": "1"}}, ValueError, "no environment can hold the variable 'A=B'"),
        ({"preload_environment": {"A": "\0"}}, ValueError, "no environment can hold the variable 'A'"),
    ],
)
@pytest.mark.parametrize("launcher", [DefaultLauncher, ForkServerLauncher])
def test_surroundings_that_cannot_be_are_refused(
    launcher: type[DefaultLauncher | ForkServerLauncher],
    options: dict[str, object],
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=text):
        launcher(**options)  # type: ignore[arg-type]


def test_the_default_preload_is_where_the_launchers_are() -> None:
    assert spindle_trio.DEFAULT_PRELOAD is spindle_trio.launchers.DEFAULT_PRELOAD  # type: ignore[attr-defined]
    assert spindle_trio.DEFAULT_PRELOAD == ("trio",)


async def test_code_that_async_entries_need_is_adapted_in_the_server_already(tmp_path: Path) -> None:
    """Otherwise each process would copy the pages with the code when its interpreter adapts it."""
    async with fork_host(tmp_path, preload=("trio",), spares=0) as forked:
        assert await forked.result("""
            import dis
            from spindle_trio._protocol._socket_lane import SocketLane
            def run(process):
                process.ready()
                written, adapted = (
                    [line.opname for line in dis.get_instructions(SocketLane._read_once, adaptive=adaptive)]
                    for adaptive in (False, True)
                )
                return written != adapted
        """)


async def test_nothing_of_the_runtime_is_left_for_a_process_to_load(tmp_path: Path) -> None:
    async with fork_host(tmp_path, preload=("trio",), spares=0) as forked:
        assert (
            await forked.result("""
            import sys
            loaded = {name for name in sys.modules if name.startswith("spindle_trio")}
            async def run(process):
                process.ready()
                await process.send(None)
                return sorted({name for name in sys.modules if name.startswith("spindle_trio")} - loaded)
        """)
            == []
        )
        assert await forked.result("""
            import sys
            def run(process):
                process.ready()
                return "spindle_trio.child._async_program" in sys.modules
        """)


@pytest.mark.parametrize("execs", [False, True])
def test_only_a_server_whose_processes_stay_rehearses_their_lives(execs) -> None:
    """A process that becomes another program keeps nothing of what was rehearsed. `preload` changes the signals and
    streams of its program, so it runs in one of its own."""
    program = f"""
        from spindle_trio.fork_server import _preload

        lives = []
        _preload.rehearse_blocking = lambda: lives.append(1)
        _preload.preload([], [], known_fds={{0, 1, 2}}, announce=print, execs={execs})
        print(len(lives) > 0)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == f"{not execs}\n"
