"""The sandbox as an option of hosts and spawns: who may choose it, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import spindle_trio
from spindle_trio import OFFLINE, READ_ONLY, WORKSPACE_WRITE, Sandbox, SandboxError, SandboxPart, SpawnOptions
from spindle_trio.abc import LaunchedProcess, LaunchOrder, ResolvedEntry, SandboxRules
from spindle_trio.launchers._sandbox_paths import resolve_sandbox
from spindle_trio.testing import MemoryLauncher
from spindle_trio.wire import from_json, to_json

ALL = dict.fromkeys(SandboxPart, "a test")


class Boxes(MemoryLauncher):
    """A launcher in memory that says that it has sandboxes, and keeps its orders."""

    def __init__(self, means: Mapping[SandboxPart, str] = ALL) -> None:
        super().__init__({"entry.py": _waits})
        self.means = means
        self.orders: list[LaunchOrder] = []

    @property
    def sandbox_means(self) -> Mapping[SandboxPart, str]:
        return self.means

    @property
    def sandbox_problems(self) -> Mapping[SandboxPart, str]:
        return {SandboxPart.FILES: "this kernel has no Landlock"}

    def resolve_sandbox(self, sandbox: Sandbox, entry: ResolvedEntry, root: Path) -> SandboxRules:
        return resolve_sandbox(sandbox, entry, root, ["/usr"])

    def launch(self, order: LaunchOrder):  # type: ignore[no-untyped-def]
        self.orders.append(order)
        return super().launch(order)


async def _waits(process: LaunchedProcess) -> None:
    process.ready()  # type: ignore[attr-defined]
    await trio.sleep_forever()


@asynccontextmanager
async def connected(host: spindle_trio.Host, root: Path) -> AsyncIterator[spindle_trio.Worker]:
    here, there = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: host.serve_worker(spindle_trio.StreamChannel(here), "w", user_id="u", root=root))
        async with spindle_trio.connect_worker(spindle_trio.StreamChannel(there)) as worker:
            yield worker


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path


async def test_a_spawn_gets_its_own_sandbox_or_else_the_hosts(autojump_clock: object, root: Path) -> None:
    launcher = Boxes()
    async with (
        spindle_trio.open_host(launcher, sandbox=READ_ONLY) as host,
        host.open_worker("w", user_id="u", root=root) as worker,
    ):
        await worker.backend_processes.spawn("entry.py")
        await worker.backend_processes.spawn("entry.py", sandbox=WORKSPACE_WRITE)
    first, second = (order.sandbox for order in launcher.orders)
    assert first is not None
    assert second is not None
    assert str(root) in first.read
    assert str(root) in second.write
    assert first.private_write


async def test_without_a_word_there_is_no_sandbox(autojump_clock: object, root: Path) -> None:
    launcher = Boxes({})
    async with spindle_trio.open_host(launcher) as host, host.open_worker("w", user_id="u", root=root) as worker:
        await worker.backend_processes.spawn("entry.py")
    assert launcher.orders[0].sandbox is None


async def test_a_missing_part_refuses_the_spawn_before_anything_runs(autojump_clock: object, root: Path) -> None:
    launcher = Boxes({part: "a test" for part in SandboxPart if part is not SandboxPart.FILES})
    async with spindle_trio.open_host(launcher) as host, host.open_worker("w", user_id="u", root=root) as worker:
        with pytest.raises(SandboxError, match=r"nothing was started: files: this kernel has no Landlock; see `sp"):
            await worker.backend_processes.spawn("entry.py", sandbox=READ_ONLY)
        assert launcher.orders == []
        await worker.backend_processes.spawn("entry.py", sandbox=OFFLINE)  # needs no such part
    assert len(launcher.orders) == 1


async def test_a_launcher_without_sandboxes_says_so(autojump_clock: object, root: Path) -> None:
    async with (
        spindle_trio.open_host(MemoryLauncher({"entry.py": _waits})) as host,
        host.open_worker("w", user_id="u", root=root) as worker,
    ):
        with pytest.raises(SandboxError, match="files: MemoryLauncher has no sandboxes"):
            await worker.backend_processes.spawn("entry.py", sandbox=READ_ONLY)


@pytest.mark.parametrize("given", [{"sandbox": READ_ONLY}, {"require_sandbox": True}, {"require_sandbox": ["files"]}])
async def test_a_host_does_not_open_without_a_part(autojump_clock: object, given: dict[str, Sandbox]) -> None:
    launcher = Boxes({part: "a test" for part in SandboxPart if part is not SandboxPart.FILES})
    with pytest.raises(RuntimeError, match="requires parts of a sandbox that cannot be had here: files: this kern"):
        async with spindle_trio.open_host(launcher, **given):
            pytest.fail("it has opened")
    async with spindle_trio.open_host(launcher, require_sandbox=["network", SandboxPart.SIGNALS], sandbox=OFFLINE):
        pass


def test_what_is_no_sandbox_is_refused() -> None:
    with pytest.raises(TypeError, match=r"sandbox must be a Sandbox or None, as in .* or READ_ONLY, not 'read-only'"):
        spindle_trio.open_host(sandbox="read-only")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sandbox must be a Sandbox or None"):
        SpawnOptions("entry.py", sandbox=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"require_sandbox takes 'files', .*, not \['disks'\]"):
        spindle_trio.open_host(require_sandbox=["disks"])
    with pytest.raises(TypeError, match=r"require_sandbox must be True or a collection of parts, as .*, not 'files'"):
        spindle_trio.open_host(require_sandbox="files")


LESS = [
    Sandbox(read=("@runtime",)),
    Sandbox(read=("@runtime", "@root/data")),
    Sandbox(write=()),
    Sandbox(subprocesses=False),
    Sandbox(deny=("@root/data",)),
    READ_ONLY,
]
MORE = [
    (WORKSPACE_WRITE, "write allows '{root}'"),
    (OFFLINE, "write allows '/'"),
    (Sandbox(write=("@root/data",)), "write allows '{root}/data'"),
    (Sandbox(read=("/",)), "read allows '/'"),
    (Sandbox(network="unix"), "network='unix'"),
    (Sandbox(network="host"), "network='host'"),
]


async def test_a_connected_worker_may_only_ask_for_less(autojump_clock: object, root: Path) -> None:
    launcher = Boxes()
    async with spindle_trio.open_host(launcher, sandbox=READ_ONLY) as host, connected(host, root) as worker:
        await worker.backend_processes.spawn("entry.py")
        for less in LESS:
            await worker.backend_processes.spawn("entry.py", sandbox=less)
        for more, said in MORE:
            with pytest.raises(SandboxError, match=f"sandbox: {said.format(root=root)}, which the default of this"):
                await worker.backend_processes.spawn("entry.py", sandbox=more)
        assert len(launcher.orders) == 1 + len(LESS)
        assert all(order.sandbox is not None for order in launcher.orders)


async def test_a_connected_worker_may_not_start_what_the_default_forbids(autojump_clock: object, root: Path) -> None:
    default = Sandbox(deny=("@root/data",), subprocesses=False)
    async with spindle_trio.open_host(Boxes(), sandbox=default) as host, connected(host, root) as worker:
        with pytest.raises(SandboxError, match="subprocesses=True, which the default"):
            await worker.backend_processes.spawn("entry.py", sandbox=READ_ONLY)
        with pytest.raises(SandboxError, match=f"read allows '{root}', which the default"):
            await worker.backend_processes.spawn("entry.py", sandbox=Sandbox(subprocesses=False))


async def test_a_connected_worker_may_choose_where_the_host_has_no_default(autojump_clock: object, root: Path) -> None:
    launcher = Boxes()
    async with spindle_trio.open_host(launcher) as host, connected(host, root) as worker:
        await worker.backend_processes.spawn("entry.py", sandbox=OFFLINE)
    assert launcher.orders[0].sandbox is not None


@pytest.mark.parametrize("sandbox", [READ_ONLY, OFFLINE, Sandbox(read=("@root", "/a"), deny=("/a/b",), network="unix")])
def test_a_sandbox_travels(sandbox: Sandbox) -> None:
    options = SpawnOptions("entry.py", sandbox=sandbox)
    assert from_json(to_json(options), SpawnOptions) == options


@pytest.mark.parametrize(
    ("sandbox", "said"),
    [
        ("read-only", "options.sandbox: expected an object, got "),
        ({"read": "/a"}, r"options\.sandbox\.read: expected an array"),
        ({"read": [1]}, r"options\.sandbox\.read: expected a string"),
        ({"read": ["a"]}, r"options\.sandbox: read: 'a' is not absolute"),
        ({"network": "all"}, r"options\.sandbox: network must be"),
        ({"subprocesses": 1}, r"options\.sandbox\.subprocesses: expected a boolean"),
    ],
)
def test_a_broken_sandbox_is_refused_with_its_field(sandbox: object, said: str) -> None:
    request = {"type": "backend_process_spawn", "requestId": "r", "options": {"entry": "entry.py", "sandbox": sandbox}}
    with pytest.raises(spindle_trio.PeerProtocolError, match=said):
        spindle_trio.wire.parse_request(request)  # type: ignore[attr-defined]
