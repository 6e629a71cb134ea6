"""A host that has no descriptor left: it loses no process to that, and what it ends is gone, with all of its tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spindle_trio import Containment
from support.containment import levels, require, run_program

FEW = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))"

ENTRY = """
import subprocess

def run(process):
    for own_session in process.payload["own_sessions"]:
        subprocess.Popen(["sleep", process.payload["mark"]], start_new_session=own_session)
    process.ready()
    while process.payload["hangs"]:
        pass
    while True:
        process.send(process.receive())
"""

HOST = """
    import json, os, resource, sys, trio, trio.testing
    from spindle_trio import Containment, ForkServerLauncher, open_host

    LIMITS = resource.getrlimit(resource.RLIMIT_NOFILE)
    last_mark = 0

    def alive(mark):
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    found += [pid] if file.read() == f"sleep\\0{mark}\\0" else []
            except OSError:
                pass
        return found

    async def end(processes, room, *, hangs, own_sessions=(False, True)):
        '''End a process by a stop, or by its watchdog, while `room()` has left this program no descriptor.'''
        global last_mark
        last_mark += 1
        mark = f"{1000 + last_mark}.{os.getpid()}"
        handle = await processes.spawn(
            "entry.py",
            payload={"hangs": hangs, "mark": mark, "own_sessions": list(own_sessions)},
            heartbeat_timeout=0.4 if hangs else float("inf"),
        )
        with trio.move_on_after(5):  # a program that has just been started may not show its arguments yet
            while len(alive(mark)) < len(own_sessions):
                await trio.testing.wait_all_tasks_blocked(0.001)
        started = len(alive(mark))
        taken = room()
        if not hangs:
            await processes.stop(handle.process_id)
        await handle.wait_ended()
        resource.setrlimit(resource.RLIMIT_NOFILE, LIMITS)
        for fd in taken:
            os.close(fd)
        with trio.move_on_after(1 if LEVEL == "sweep" else 0):  # that is what is promised there
            while alive(mark):
                await trio.testing.wait_all_tasks_blocked(0.01)
        return {
            "state": handle.state,
            "started": started,
            "left": len(alive(mark)),
            "error": handle.info.error,
            "stacks": handle.post_mortem.stacks if handle.post_mortem else None,
        }

    def use_up():
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return taken

    def lower():
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, LIMITS[1]))
        return []

    async def main():
        launcher = ForkServerLauncher(preload=(), spares=0, containment=Containment(LEVEL))
        async with open_host(launcher) as host, host.open_worker("w", root=sys.argv[1], user_id="ada") as worker:
            processes = worker.backend_processes
            other = await processes.spawn(
                "entry.py", payload={"hangs": False, "own_sessions": []}, heartbeat_timeout=float("inf")
            )
            said = {
                "killed": await end(processes, use_up, hangs=False),
                "hung": await end(processes, use_up, hangs=True),
                "hung, and the limit lowered": await end(processes, lower, hangs=True, own_sessions=[False]),
            }
            await other.send("still there")
            async with other.messages() as messages:
                said["other"] = await messages.receive()
            print(json.dumps(said))

    trio.run(main)
"""


@pytest.mark.quick(1)
@levels()
def test_a_host_without_descriptors_ends_what_it_has_to_end(tmp_path: Path, level: Containment) -> None:
    """A few are held for kills, and for the dump before one; without them the dump is left out, and that is told."""
    require(level)
    (tmp_path / "entry.py").write_text(ENTRY)
    said = json.loads(run_program(tmp_path, HOST.replace("LEVEL", repr(str(level))), before=FEW))
    killed, hung, lowered = said["killed"], said["hung"], said["hung, and the limit lowered"]
    assert (killed["state"], killed["started"], killed["left"]) == ("stopped", 2, 0)
    assert (hung["state"], hung["started"], hung["left"]) == ("timed_out", 2, 0)
    assert "in run" in str(hung["stacks"])
    assert (lowered["state"], lowered["stacks"], lowered["left"]) == ("timed_out", None, 0)
    assert "stacks could not be asked for: Too many open files" in lowered["error"]
    assert said["other"] == "still there"
