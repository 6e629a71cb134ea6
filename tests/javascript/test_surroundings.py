"""A JavaScript process's folder, environment, output, descriptors, kin, and the end of its host."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from spindle_trio import Containment, NodeLauncher
from support.contract import exists, stderr_of
from support.javascript import GUARD_SECONDS, Stage, body, outcome
from support.leftovers import LAST_SECONDS
from support.numbers import outside

LINUX = "import fs from 'node:fs'; import { spawn, execFileSync, fork } from 'node:child_process';"


async def test_folder_arguments_and_environment_are_those_of_the_contract(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("TZ", "Europe/Vienna")
    monkeypatch.setenv("NODE_OPTIONS", "--no-warnings")
    code = """
    const { argv, execArgv, env } = process;
    p.ready();
    p.complete({ cwd: process.cwd(), argv, execArgv, env: { ...env } });
    """
    async with stage.host():
        found = await stage.result(body(code))
        assert found["cwd"] == str(stage.root)
        assert Path(found["argv"][0]).name == "node"
        assert found["argv"][1:] == [str(stage.root / "entry1.mjs")]
        assert found["execArgv"] == []
        assert found["env"]["TZ"] == "Europe/Vienna"
        assert not found["env"].keys() & {"SECRET_TOKEN", "NODE_OPTIONS", "NODE_CHANNEL_FD"}
        assert not [name for name in found["env"] if "SPINDLE" in name and not name.startswith("LC_")]
    async with stage.host(environment={"PATH": os.environ["PATH"], "WORD": "given"}):
        found = await stage.result(body(code))
        assert found["env"] == {"PATH": os.environ["PATH"], "WORD": "given"}


async def test_a_process_runs_in_the_surroundings_that_its_spawn_names(stage: Stage) -> None:
    (stage.root / "data").mkdir()
    ask = "const { argv, env } = process; p.ready(); p.complete([argv.slice(2), process.cwd(), env.ONE]);"
    async with stage.host():
        found = await stage.result(body(ask), environment={"ONE": "1"}, folder="data", arguments=["--fast", "", "a b"])
        assert found == [["--fast", "", "a b"], str(stage.root / "data"), "1"]


async def test_surroundings_that_the_system_refuses_are_told_in_words(stage: Stage) -> None:
    async with stage.host():
        error = await stage.refusal(body("p.ready();"), arguments=["x" * 100_000] * 100)
        assert "Argument list too long; give it shorter arguments and variables" in str(error)
        assert "Traceback" not in str(error)


@pytest.mark.slow
async def test_a_host_that_node_has_started_may_pass_its_environment_on(stage: Stage) -> None:
    """In which is the descriptor that its own messages to that Node travel on."""
    ask = body("p.ready(); p.complete(process.send === undefined);")
    for fd in range(3, 13):
        async with stage.host(environment={"NODE_CHANNEL_FD": str(fd), "NODE_CHANNEL_SERIALIZATION_MODE": "json"}):
            assert await stage.result(ask) is True


async def test_standard_streams_are_captured_and_carry_no_frames(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.end(
            body("""
            console.log("to stdout");
            console.error("to stderr");
            process.stderr.write(Buffer.from([0xff, 0x0a]));
            p.ready();
            process.stdin.on("end", () => process.exit(3)).resume();
            """)
        )
    assert (await outcome(handle))[1] == (
        "exited with code 3 without complete() or fail(); the last it wrote to stderr: to stderr | \ufffd"
    )
    assert handle.post_mortem is not None
    assert handle.post_mortem.stderr == "to stderr\n\ufffd"


async def test_a_flood_of_output_holds_nothing_up_and_its_end_is_kept(stage: Stage) -> None:
    """20 MB on each stream, some of it before ready, and the last line before an exit."""
    async with stage.host():
        handle = await stage.end(
            body("""
            const line = "x".repeat(1000);
            for (let number = 0; number < 20_000; number += 1) {
              if (number === 300) p.ready();
              console.log(line);
              console.error(line);
            }
            console.error("the very last line");
            process.exit(1);
            """)
        )
    assert "the very last line" in str(await outcome(handle))
    assert len(stderr_of(handle)) <= 64 * 1024
    assert handle.statistics().output_dropped > 30_000_000


async def test_closed_streams_and_descriptors_of_ones_own_are_no_concern_of_ours(stage: Stage) -> None:
    async with stage.host():
        for code in (
            "fs.closeSync(0); fs.closeSync(1); fs.closeSync(2);",
            "process.stdout.destroy(); process.stderr.end();",
        ):
            handle = await stage.spawn(
                body(f"{code} p.onMessage((m) => {{ p.send(m); throw new Error('x'); }}); p.ready();", head=LINUX)
            )
            messages = handle.messages()
            await handle.send("still here")
            assert await messages.receive() == "still here"
            await handle.stop()
            assert await outcome(handle) == ("stopped", None)


# ---- what it has, and what it starts

DESCRIPTORS = """
import fs from "node:fs";
const found = [];
for (const name of fs.readdirSync("/proc/self/fd")) {
  try { found.push([Number(name), fs.readlinkSync(`/proc/self/fd/${name}`)]); } catch { /* of this listing */ }
}
"""


async def test_a_process_has_its_lanes_and_page_and_nothing_of_its_hosts(stage: Stage) -> None:
    async with stage.host():
        other = await stage.spawn(body("p.ready();"))
        found = await stage.result(f"{DESCRIPTORS}\n{body('p.ready(); p.complete(found);')}")
        await other.stop()
    links = [link for _, link in found]
    assert len([link for link in links if link.startswith("socket:")]) == 3
    assert len([link for link in links if "memfd" in link or "spindle" in link]) == 1
    assert not [link for link in links if link.startswith(("/proc", str(stage.root)))]


STARTS = [
    "spawn(process.execPath, [child], { stdio: ['ignore', 'pipe', 'inherit'] }).stdout",
    "fork(child, { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] }).stdout",
    "spawn(process.execPath, [child], { stdio: ['ignore', 'pipe', 'inherit'], detached: true }).stdout",
]


@pytest.mark.slow
async def test_what_a_process_starts_has_none_of_its_descriptors_and_ends_with_it(stage: Stage) -> None:
    child = stage.write(
        f"""
        {DESCRIPTORS}
        console.log(JSON.stringify([process.pid, found]));
        setInterval(() => {{}}, 1000);
        """
    )
    starts = "\n".join(f"{start}.once('data', (text) => p.send(JSON.parse(text)));" for start in STARTS)
    async with stage.host() as host:
        for end in ("stop", "complete", "exit", "kill"):
            code = f"""
            const child = "./{child}";
            p.onMessage(() => {"process.exit(1)" if end == "exit" else "p.complete()"});
            p.ready();
            {starts}
            """
            handle = await stage.spawn(body(code, head=LINUX))
            messages = handle.messages()
            kin = []
            for _ in STARTS:
                pid, found = await messages.receive()  # type: ignore[misc]
                assert handle.pid is not None
                kin.append(outside(handle.pid, pid))
                assert not [link for _, link in found if "memfd" in link or "spindle" in link]
                assert len([link for _, link in found if link.startswith("socket:")]) <= 2  # its own output and channel
            assert all(map(exists, kin))
            if end == "stop":
                await handle.stop()
            elif end == "kill":
                assert handle.pid is not None
                os.kill(handle.pid, 9)
            else:
                await handle.send("end")
            await handle.wait_ended()
            if host.statistics().containment in {Containment.PIDNS, Containment.CGROUP}:
                assert not any(map(exists, kin))
            with trio.fail_after(5):
                while any(map(exists, kin)):
                    await trio.sleep(0.01)


async def test_worker_threads_and_clusters_live_and_end_with_the_process(stage: Stage) -> None:
    (stage.root / "thread.mjs").write_text(
        "import { parentPort } from 'node:worker_threads'; parentPort.postMessage('hello'); setInterval(() => {}, 10);"
    )
    async with stage.host():
        threads = await stage.end(
            body(
                """
                p.ready();
                new Worker("./thread.mjs").on("message", (word) => p.complete(word));
                """,
                head="import { Worker } from 'node:worker_threads';",
            )
        )
        throws = await stage.end(
            body(
                "p.ready(); new Worker('throw new RangeError(\"in a thread\")', { eval: true });",
                head="import { Worker } from 'node:worker_threads';",
            )
        )
        exits = await stage.end(
            body(
                "p.ready(); new Worker('process.exit(3)', { eval: true }).on('exit', (code) => p.complete(code));",
                head="import { Worker } from 'node:worker_threads';",
            )
        )
        clusters = await stage.end(
            body(
                """
                cluster.setupPrimary({ exec: "./member.cjs" });
                p.ready();
                cluster.fork().on("message", (word) => p.complete(word));
                """,
                head="import fs from 'node:fs'; import cluster from 'node:cluster';"
                "fs.writeFileSync('member.cjs', 'process.send(\"a member\"); setInterval(() => {}, 10);');",
            )
        )
    assert (threads.result, exits.result, clusters.result) == ("hello", 3, "a member")
    assert await outcome(throws) == ("failed", "RangeError: in a thread")


# ---- lack of memory, and of a host


async def test_a_lack_of_memory_is_told_as_an_abort_with_what_node_printed(stage: Stage) -> None:
    environment = {"PATH": os.environ["PATH"], "NODE_OPTIONS": "--max-old-space-size=30"}
    async with stage.host(environment=environment):
        handle = await stage.end(
            body("p.ready(); const all = []; for (;;) all.push(new Array(1000).fill(all.length));")
        )
    state, error = await outcome(handle)
    assert state == "failed"
    assert str(error).startswith("killed by SIGABRT without complete() or fail()"), error
    assert "JavaScript heap out of memory" in stderr_of(handle)


HOST = """
import sys
import trio
from spindle_trio import NodeLauncher, open_host

async def main(root):
    async with open_host(NodeLauncher()) as host, host.open_worker("w", root=root, user_id="ada") as worker:
        for entry in sys.argv[2:]:
            handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=60)
            print(handle.pid, flush=True)
        await trio.sleep_forever()

trio.run(main, sys.argv[1])
"""


@pytest.mark.slow
def test_nothing_is_left_two_seconds_after_a_host_was_killed(stage: Stage) -> None:
    entries = [
        stage.write(body("p.ready(); for (;;);")),
        stage.write(body("p.ready();")),
        stage.write(body("p.ready(); for (let n = 0; n < 1000; n += 1) p.send('x'.repeat(10_000)); process.exit();")),
    ]
    (stage.root / "host.py").write_text(HOST)
    with subprocess.Popen(
        [sys.executable, str(stage.root / "host.py"), str(stage.root), *entries],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as host:
        assert host.stdout is not None
        pids = [int(host.stdout.readline()) for _ in entries]
        pidfds = [os.pidfd_open(pid) for pid in pids[:2]]
        host.kill()
        for pidfd in pidfds:
            ready, _, _ = select.select([pidfd], [], [], LAST_SECONDS)
            os.close(pidfd)
            assert ready, "a process has outlived its host"


@pytest.mark.slow
async def test_processes_come_and_go_without_a_trace(stage: Stage) -> None:
    """Spawns that are cancelled at different moments among them; the fixture looks at what is left."""
    async with stage.host(NodeLauncher(spares=1), seconds=GUARD_SECONDS):
        entry = stage.write("export default (p) => p.ready();")
        for number in range(12):
            with trio.move_on_after(0.015 * number) as scope:
                handle = await stage.worker.backend_processes.spawn(entry)
            if not scope.cancelled_caught:
                await handle.stop()
        assert await stage.worker.backend_processes.list() == []
