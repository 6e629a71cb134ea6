"""What a child loads: nothing of the host, and Trio only for an `async` entry. Real processes only.

In memory an entry shares its interpreter with the host, whose modules it therefore sees.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from spindle_trio.launchers import ForkServerLauncher, PythonLauncher

HOST_MODULES = {
    "spindle_trio._host",
    "spindle_trio._interfaces",
    "spindle_trio._messages._broadcast",
    "spindle_trio._messages._cursors",
    "spindle_trio._messages._inbox",
    "spindle_trio._open_host",
    "spindle_trio._protocol._control_frames",
    "spindle_trio._protocol._json_codec",
    "spindle_trio._supervision",
    "spindle_trio._process_handle",
    "spindle_trio._worker",
    "spindle_trio._worker_protocol",
    "spindle_trio.cli",
    "spindle_trio.launchers",
    "spindle_trio.testing",
    "spindle_trio.wire",
}


CALL_MODULES = {
    "spindle_trio._protocol._call_frames",
    "spindle_trio.child._async_call",
    "spindle_trio.child._async_calls",
    "spindle_trio.child._blocking_call",
    "spindle_trio.child._blocking_calls",
    "spindle_trio.child._calls",
}
"""What only an entry that takes calls needs."""


async def test_a_blocking_child_loads_neither_trio_nor_attrs_nor_anything_of_the_host(real_world) -> None:
    entry = real_world.blocking_entry("""
        import sys
        from spindle_trio.child import BlockingProcessContext

        def run(process: BlockingProcessContext):
            process.on_stop(print)()
            process.ready()
            process.send("sent")
            process.receive()
            process.sleep(0)
            return sorted(sys.modules)
    """)
    # What is preloaded, every process of a fork server has loaded: so none of it is, here.
    launcher = ForkServerLauncher(preload=()) if real_world.kind == "forked" else PythonLauncher()
    async with real_world.worker(launcher=launcher) as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send("received")
        await handle.wait_ended()
    loaded = set(handle.result)
    assert loaded & HOST_MODULES == set()
    heavy = {"trio", "attr", "attrs", "cattr", "cattrs", "outcome"}
    assert not [name for name in loaded if name.partition(".")[0] in heavy]
    # Each of these would cost more than all of the runtime.
    assert loaded & {"inspect", "logging", "socket", "subprocess", "traceback", "asyncio", "ssl", "ctypes"} == set()
    assert "spindle_trio.child._async_runtime" not in loaded
    runtimes = ("spindle_trio.child", "spindle_trio.fork_server", "spindle_trio._linux")
    shared = {name for name in loaded if name.startswith("spindle_trio.") and not name.startswith(runtimes)}
    assert shared == {
        "spindle_trio._errors",
        "spindle_trio._protocol",
        "spindle_trio._protocol._frames",
        "spindle_trio._protocol._json_text",
        "spindle_trio._protocol._payload",
    }
    # Only the first `on_call` loads what serves calls.
    assert loaded & CALL_MODULES == set()


CHEAP = {"__future__", "_collections", "_ctypes", "_json", "faulthandler", "mmap", "select"}
"""What the child's runtime takes from the standard library beyond what any interpreter has loaded: modules in C, which
cost a fifth of a millisecond each."""


def loaded_by_an_empty_interpreter() -> set[str]:
    """What is loaded at every start: more in some installations, by `.pth` files and `sitecustomize`."""
    code = "import sys; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(shown.stdout.split())


@pytest.mark.parametrize("real_world", ["python"], indirect=True)
async def test_an_execed_child_loads_no_package_of_the_standard_library_before_its_entry(real_world) -> None:
    """A spawn that executes an interpreter is held to 1.3 times an empty one. `typing` alone, with the `re`, `enum`,
    `collections` and `contextlib` that it loads, takes as long as half of that interpreter, and `json` a sixth."""
    entry = real_world.blocking_entry("""
        import sys

        def run(process):
            loaded = sorted(sys.modules)
            process.ready()
            return [loaded, sorted(sys.modules)]
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.wait_ended()
    before, after = map(set, handle.result)
    ours = {name for name in before if name.partition(".")[0] == "spindle_trio"}
    assert before - loaded_by_an_empty_interpreter() - ours - {"entry"} <= CHEAP
    assert after == before


async def test_an_async_child_loads_trio_and_nothing_of_the_host(real_world) -> None:
    entry = real_world.blocking_entry("""
        import sys
        from spindle_trio.child import ProcessContext

        async def run(process: ProcessContext):
            process.on_stop(print)()
            process.ready()
            await process.send("sent")
            await process.messages().receive()
            return sorted(sys.modules)
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send("received")
        await handle.wait_ended()
    loaded = set(handle.result)
    assert "trio" in loaded
    assert loaded & HOST_MODULES == set()
    assert not [name for name in loaded if name.partition(".")[0] == "cattrs"]
    assert loaded & CALL_MODULES == set()
