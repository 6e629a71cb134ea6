"""What shows that a program is ready."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from spindle_trio import Http, Line, StartupFailedError, StartupTimeoutError, Tcp
from spindle_trio._model._command import Readiness
from support.fork_server import fork_host, wait_until
from support.programs import python_program, spawn_command, spawn_shim

pytestmark = pytest.mark.usefixtures("no_survivors")

SOON = {"startup_timeout": 0.3}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.quick(1)
@pytest.mark.parametrize("stream", ["", ">&2"], ids=["stdout", "stderr"])
async def test_a_line_shows_that_a_program_is_ready(
    tmp_path: Path, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "spindle_trio.process")
    line = f"echo no; echo 'now listening on 80' {stream}; echo later {stream}; exec sleep 1000"
    async with fork_host(tmp_path) as forked:
        ready = Line(r"listening on \d+$")
        handle = await spawn_command(forked, ["sh", "-c", line], ready=ready)
        assert handle.state == "running"
        await wait_until(lambda: "later" in caplog.text)
        await handle.stop()
    assert "now listening on 80" in caplog.text


@pytest.mark.slow
async def test_what_a_program_prints_after_it_is_ready_is_kept_as_well(tmp_path: Path) -> None:
    line = "echo up; echo last words >&2; exit 4"
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, ["sh", "-c", line], ready=Line("up"))
        await handle.wait_ended()
    assert handle.post_mortem is not None
    assert handle.post_mortem.stderr == "last words"


async def test_a_line_without_an_end_is_looked_at_in_parts(tmp_path: Path) -> None:
    source = """
    import sys, time
    sys.stdout.write("ready " * 100_000)
    sys.stdout.flush()
    time.sleep(1000)
    """
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, python_program(tmp_path, source), ready=Line("ready"))
        await handle.stop()


async def test_a_line_of_a_lane_shows_it_and_is_a_message(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        ready = Line("up")
        handle = await spawn_command(forked, ["sh", "-c", "echo up; exec cat"], ready=ready, lane="lines")
        async with handle.messages() as messages:
            assert await messages.receive() == "up"
            await handle.send("hello")
            assert await messages.receive() == "hello"
        await handle.stop()


SERVER = """
import socket, sys, time
time.sleep(0.05)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    if len(sys.argv) > 2:
        connection.recv(65536)
        connection.sendall(sys.argv.pop(2).encode().decode("unicode_escape").encode())
    connection.close()
"""


async def test_a_connection_shows_that_a_program_is_ready(tmp_path: Path) -> None:
    port = free_port()
    async with fork_host(tmp_path) as forked:
        argv = [*python_program(tmp_path, SERVER), str(port)]
        handle = await spawn_command(forked, argv, ready=Tcp(port))
        socket.create_connection(("127.0.0.1", port)).close()
        await handle.stop()


@pytest.mark.slow
async def test_a_good_answer_shows_that_a_program_is_ready(tmp_path: Path) -> None:
    port = free_port()
    answers = ["HTTP/1.1 503 Not yet\\r\\n\\r\\n", "", "nonsense\\r\\n", "HTTP/1.1 204 No Content\\r\\n\\r\\n"]
    async with fork_host(tmp_path) as forked:
        argv = [*python_program(tmp_path, SERVER), str(port), *answers]
        url = f"http://127.0.0.1:{port}/health?deep=1"
        handle = await spawn_command(forked, argv, ready=Http(url))
        await handle.stop()


async def test_an_http_server_that_nobody_here_wrote_becomes_ready(tmp_path: Path) -> None:
    port = free_port()
    async with fork_host(tmp_path, grace_period=5) as forked:
        argv = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        ready = Http(f"http://127.0.0.1:{port}/")
        handle = await spawn_command(forked, argv, ready=ready, stop_signal=2)
        await handle.stop()
    assert handle.state == "completed", handle.info.error


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["tcp", "http"])
async def test_a_port_that_is_taken_already_shows_nothing(tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ready = Tcp(port) if kind == "tcp" else Http(f"http://127.0.0.1:{port}")
        async with fork_host(tmp_path) as forked:
            with pytest.raises(StartupFailedError, match=f"accepts connections on 127.0.0.1 port {port} already"):
                await spawn_command(forked, ["sleep", "1000"], ready=ready)


def never(kind: str) -> Readiness:
    port = free_port()
    kinds: dict[str, Readiness] = {
        "notify": "notify",
        "line": Line("^up"),
        "tcp": Tcp(port),
        "http": Http(f"http://127.0.0.1:{port}"),
    }
    return kinds[kind]


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["notify", "line", "tcp", "http"])
async def test_the_hosts_deadline_ends_a_program_that_is_never_ready(tmp_path: Path, kind: str) -> None:
    async with fork_host(tmp_path) as forked:
        with pytest.raises(StartupTimeoutError):
            await spawn_command(forked, ["sleep", "1000"], ready=never(kind), **SOON)


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["notify", "line", "tcp", "http"])
async def test_a_program_that_forks_away_has_failed(tmp_path: Path, kind: str) -> None:
    async with fork_host(tmp_path) as forked:
        with pytest.raises(StartupFailedError, match="exited with code 0 before it was ready"):
            await spawn_command(forked, ["sh", "-c", "sleep 1000 & exit 0"], ready=never(kind))


async def test_a_program_that_ends_with_a_code_before_it_is_ready_names_it(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        with pytest.raises(StartupFailedError, match="exited with code 3"):
            await spawn_command(forked, ["sh", "-c", "exit 3"], ready=never("line"))


@pytest.mark.slow
async def test_a_program_that_closes_its_streams_goes_on(tmp_path: Path) -> None:
    line = "exec <&- >&- 2>&-; exec sleep 1000"
    async with fork_host(tmp_path) as forked:
        for lane in ("none", "lines"):
            handle = await spawn_command(forked, ["sh", "-c", line], lane=lane)
            await handle.stop()
            assert handle.state == "stopped", handle.info.error
        with pytest.raises(StartupTimeoutError):
            await spawn_command(forked, ["sh", "-c", line], ready=never("line"), **SOON)


async def test_the_last_line_of_a_program_may_show_that_it_is_ready(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, ["sh", "-c", "echo up"], ready=never("line"))
        assert (await handle.wait_ended()).state == "completed"


async def test_a_pattern_or_url_that_is_none_is_refused_by_a_shim_too(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        with pytest.raises(StartupFailedError, match="is no regular expression"):
            await spawn_shim(forked, ["true"], ready={"kind": "line", "pattern": "("})
        with pytest.raises(StartupFailedError, match="not of the form http://HOST"):
            await spawn_shim(forked, ["true"], ready={"kind": "http", "url": "ftp://x"})
