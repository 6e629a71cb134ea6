"""Programs that nobody here wrote, as their users would supervise them. Skipped where they are not installed."""

from __future__ import annotations

import glob
import math
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from spindle_trio import Command, Containment, Tcp
from support.containment import AS_NOBODY, levels, require
from support.fork_server import fork_host, state_of, wait_until
from support.programs import needed

pytestmark = pytest.mark.usefixtures("no_survivors")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ask(port: int, text: bytes) -> bytes:
    """Send something to a server, and return the beginning of its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text)
        return connection.recv(4096)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach: pytest closes its own, and any other run of it does so again."""
    with tempfile.TemporaryDirectory(prefix="spindle-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def postgres_cluster(folder: Path) -> tuple[list[str], Path]:
    """Make a database cluster, or skip; returns what goes on as an ordinary user, and the cluster's folder."""
    places = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    initdb = needed("initdb", places=places)
    as_user: list[str] = []
    data = folder / "data"
    data.mkdir()
    options = {}
    if os.geteuid() == 0:  # as whom it refuses to run
        user, group = AS_NOBODY["user"], AS_NOBODY["group"]
        as_user = [needed("setpriv"), f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        os.chown(data, user, group)
        options = AS_NOBODY
    argv = [initdb, "--no-sync", "--auth=trust", "--username=postgres", "--no-instructions", str(data)]
    subprocess.run(argv, check=True, capture_output=True, cwd="/", **options)
    return [*as_user, str(Path(initdb).resolve().with_name("postgres"))], data


@pytest.mark.slow
@levels()
async def test_postgresql_says_that_it_is_ready_and_stops_fast(open_folder: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    argv, data = await trio.to_thread.run_sync(postgres_cluster, open_folder)
    linked = await trio.run_process(["ldd", argv[-1]], capture_stdout=True)
    if b"libsystemd" not in linked.stdout:
        pytest.skip(f"{argv[-1]} was built without libsystemd, so it does not notify")
    async with fork_host(open_folder, containment=level, grace_period=20, seconds=60) as forked:
        command = Command(
            [*argv, "-D", str(data), "-k", str(data), "-c", "listen_addresses=", "-c", "fsync=off"],
            ready="notify",
            stop_signal=signal.SIGINT,
        )
        handle = await forked.worker.backend_processes.spawn(command, heartbeat_timeout=math.inf, startup_timeout=30)
        # It takes queries now, not later.
        psql = [needed("psql", places=[str(Path(argv[-1]).parent)]), "-h", str(data), "-U", "postgres", "-Atc"]
        answer = await trio.run_process([*psql, "select 6 * 7"], capture_stdout=True)
        assert answer.stdout == b"42\n"
        await handle.stop()
    assert handle.state == "completed", handle.post_mortem
    assert not (data / "postmaster.pid").exists()


@pytest.mark.slow
@levels()
async def test_redis_is_ready_once_it_takes_connections(tmp_path: Path, level: Containment) -> None:
    program = needed("redis-server")
    await trio.to_thread.run_sync(require, level)
    port = free_port()
    async with fork_host(tmp_path, containment=level, grace_period=20) as forked:
        command = Command(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"], ready=Tcp(port)
        )
        handle = await forked.worker.backend_processes.spawn(command)
        assert ask(port, b"PING\r\n") == b"+PONG\r\n"
        await handle.stop()
    assert handle.state == "completed", handle.post_mortem


async def test_redis_that_becomes_a_daemon_has_failed(tmp_path: Path) -> None:
    program = needed("redis-server")
    port = free_port()
    async with fork_host(tmp_path) as forked:
        argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--daemonize", "yes"]
        handle = await forked.worker.backend_processes.spawn(Command(argv))
        await handle.wait_ended()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.quick(1)
@levels()
async def test_nginx_and_its_workers_serve_and_leave(tmp_path: Path, level: Containment) -> None:
    program = needed("nginx")
    await trio.to_thread.run_sync(require, level)
    port = free_port()
    (tmp_path / "nginx.conf").write_text(f"""
        daemon off; worker_processes 2; pid {tmp_path}/nginx.pid; error_log stderr;
        events {{ worker_connections 16; }}
        http {{
            access_log off;
            client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;
            fastcgi_temp_path {tmp_path}/fastcgi; uwsgi_temp_path {tmp_path}/uwsgi; scgi_temp_path {tmp_path}/scgi;
            server {{ listen 127.0.0.1:{port}; location / {{ return 200 "served"; }} }}
        }}
    """)
    async with fork_host(tmp_path, containment=level, grace_period=20) as forked:
        command = Command(
            [program, "-e", "stderr", "-p", str(tmp_path), "-c", f"{tmp_path}/nginx.conf"],
            ready=Tcp(port),
            stop_signal=signal.SIGQUIT,
        )
        handle = await forked.worker.backend_processes.spawn(command)
        assert ask(port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        await handle.stop()
    assert handle.state == "completed", handle.post_mortem


@pytest.mark.quick(1)
@levels()
@pytest.mark.parametrize("end", ["is stopped", "ends"])
async def test_a_pipeline_with_a_daemonised_grandchild_leaves_nothing(
    tmp_path: Path, level: Containment, end: str
) -> None:
    if shutil.which("setsid") is None:
        pytest.skip("there is no setsid here")
    await trio.to_thread.run_sync(require, level)
    line = (
        "yes | cat | (setsid sh -c 'sh -c \"trap : TERM HUP INT; echo \\$\\$ > part; mv part daemon; "
        "while :; do sleep 1; done\" & exit 0' </dev/null >/dev/null 2>&1; cat >/dev/null"
        f"{' & while ! test -e daemon; do sleep 0.01; done' if end == 'ends' else ''})"
    )
    async with fork_host(tmp_path, containment=level, grace_period=0.2) as forked:
        handle = await forked.worker.backend_processes.spawn(Command(["sh", "-c", line]))
        while not (tmp_path / "daemon").exists():
            await trio.sleep(0.005)
        pid = int((tmp_path / "daemon").read_text())
        await (handle.stop() if end == "is stopped" else handle.wait_ended())
        if level is not Containment.PIDNS:
            assert state_of(pid) in (None, "Z"), "its number means the same process out here"
    # No survivor and no zombie: the fixture looks.


@pytest.mark.slow
async def test_redis_notifies_where_it_was_built_for_it(tmp_path: Path) -> None:
    program = needed("redis-server")
    linked = await trio.run_process(["ldd", program], capture_stdout=True)
    if b"libsystemd" not in linked.stdout:
        pytest.skip(f"{program} was built without libsystemd")
    argv = [program, "--port", "0", "--unixsocket", str(tmp_path / "s"), "--save", "", "--supervised", "systemd"]
    async with fork_host(tmp_path, grace_period=20) as forked:
        handle = await forked.worker.backend_processes.spawn(Command(argv, ready="notify"), heartbeat_timeout=math.inf)
        await wait_until(lambda: handle.info.status == "Ready to accept connections")
        await handle.stop()
    assert handle.state == "completed", handle.post_mortem
