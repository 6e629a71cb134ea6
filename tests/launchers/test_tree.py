"""Killing trees that the test grows itself, without the rest of the library."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio

from spindle_trio.launchers._local import _tree

pytestmark = pytest.mark.usefixtures("nothing_left")

GROWING = """
import os, sys, time
depth = int(sys.argv[1])
for number in range(depth):
    if os.fork() == 0:
        os.setsid()
    else:
        break
os.write(1, b"%d\\n" % os.getpid())  # in one piece, since several write
while True:
    time.sleep(1000)
"""


class Tree:
    """A chain of processes, each in a session of its own."""

    def __init__(self, depth: int) -> None:
        self.root = subprocess.Popen(
            [sys.executable, "-S", "-c", GROWING, str(depth)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.root.stdout is not None
        self.pids: list[int] = []
        self.pidfds: list[int] = []
        for _ in range(depth + 1):
            self.pids.append(int(self.root.stdout.readline()))
            self.pidfds.append(os.pidfd_open(self.pids[-1]))
        self.pidfd = os.pidfd_open(self.root.pid)

    async def wait_gone(self) -> None:
        with trio.fail_after(5):
            for pidfd in self.pidfds:
                await trio.lowlevel.wait_readable(pidfd)

    def close(self) -> None:
        for pidfd in self.pidfds:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.close(pidfd)
        self.root.wait()
        os.close(self.pidfd)
        assert self.root.stdout is not None
        self.root.stdout.close()


@pytest.fixture
def tree() -> Iterator[Tree]:
    tree = Tree(3)
    yield tree
    tree.close()


async def test_a_chain_of_sessions_is_killed_to_its_last_link(tree: Tree) -> None:
    _tree.kill_tree(tree.root.pid, tree.pidfd)
    await tree.wait_gone()


async def test_it_is_found_also_where_the_kernel_lists_no_children(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tree, "children_of", _tree._children_by_scanning)
    _tree.kill_tree(tree.root.pid, tree.pidfd)
    await tree.wait_gone()


async def test_children_of_any_thread_are_found() -> None:
    """The kernel keeps a list for each thread, and most processes are asked for that of their first one alone."""
    source = (
        "import os, threading\n"
        "def fork():\n"
        "    if os.fork() == 0:\n        os.setsid()\n        os.write(1, b'%d\\n' % os.getpid())\n"
        "    threading.Event().wait()\n"
        "threading.Thread(target=fork).start()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", source], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as root:
        assert root.stdout is not None
        child = int(root.stdout.readline())
        pidfd, childs_pidfd = os.pidfd_open(root.pid), os.pidfd_open(child)
        try:
            found = _tree.children_of(root.pid)
            _tree.kill_tree(root.pid, pidfd)
            with trio.fail_after(5):
                await trio.lowlevel.wait_readable(pidfd)
                await trio.lowlevel.wait_readable(childs_pidfd)
        finally:
            root.kill()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(childs_pidfd, signal.SIGKILL)
            os.close(pidfd)
            os.close(childs_pidfd)
    assert found == [child]


def test_a_long_list_of_children_is_read_in_pieces(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that lies across two of them is one number."""
    whole = _tree.children_of(tree.root.pid)
    assert len(whole) == 1
    monkeypatch.setattr(_tree, "_READ_BYTES", 2)
    assert _tree.children_of(tree.root.pid) == whole
    assert _tree._parent_of(whole[0]) == tree.root.pid


async def test_a_tree_is_killed_also_where_its_root_is_the_child_of_another_process(tree: Tree) -> None:
    """As the processes of a fork server are: only their parent can reap them, and until then they hold their number."""
    (child,) = _tree.children_of(tree.root.pid)
    pidfd = os.pidfd_open(child)
    _tree.kill_tree(child, pidfd)
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(pidfd)
    assert _tree._parent_of(child) == tree.root.pid  # it is a zombie, and nobody has asked its parent to reap it
    _tree.kill_tree(child, pidfd)
    os.close(pidfd)
    assert tree.root.poll() is None


async def test_a_second_kill_and_one_after_the_reaping_are_harmless(tree: Tree) -> None:
    _tree.kill_tree(tree.root.pid, tree.pidfd)
    _tree.kill_tree(tree.root.pid, tree.pidfd)
    await tree.wait_gone()
    tree.root.wait()
    assert _tree.signal_pidfd(tree.pidfd, signal.SIGKILL) is False


def test_a_number_is_signalled_only_as_a_child_of_the_right_parent(tree: Tree) -> None:
    """Numbers are given away again: one that now belongs to somebody else must not be hit."""
    root, child, grandchild = sorted(tree.pids)[:3]
    assert _tree._parent_of(grandchild) == child
    assert _tree._signal_child_of(root, grandchild, signal.SIGKILL) is False
    assert _tree._signal_child_of(os.getpid(), grandchild, signal.SIGKILL) is False
    with pytest.raises(ChildProcessError):
        os.waitpid(grandchild, os.WNOHANG)
    os.kill(grandchild, 0)


def test_there_is_nothing_to_know_about_a_number_that_nobody_has() -> None:
    free = 2**22 + 1
    assert _tree._parent_of(free) is None
    assert _tree.children_of(free) == []
    assert _tree._signal_child_of(os.getpid(), free, signal.SIGKILL) is False


async def test_a_tree_that_is_too_large_is_bounded(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork bomb does not hold up its killer; its group is killed all the same."""
    monkeypatch.setattr(_tree, "_MAX_DESCENDANTS", 1)
    _tree.kill_tree(tree.root.pid, tree.pidfd)
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(tree.pidfd)


async def test_a_tree_that_grows_while_it_is_killed_is_gone_in_the_end() -> None:
    source = (
        "import os\nprint(os.getpid(), flush=True)\nwhile True:\n    if os.fork() == 0:\n        os.setsid()\n"
        "        while True:\n            import time; time.sleep(1000)\n    import time; time.sleep(0.001)"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", source], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as root:
        assert root.stdout is not None
        root.stdout.readline()
        pidfd = os.pidfd_open(root.pid)
        with trio.fail_after(10):
            while len(_tree.children_of(root.pid)) < 5:
                await trio.sleep(0.001)
            before = _tree.children_of(root.pid)
            _tree.kill_tree(root.pid, pidfd)
            await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)
        assert before
        # Every one of them holds the pipe, so its end says that all are gone.
        with trio.fail_after(5):
            assert await trio.to_thread.run_sync(root.stdout.read) == ""


# ---- holding a tree while its root dumps its stacks


async def test_what_is_held_is_stopped_and_found_also_once_its_root_is_gone(tree: Tree) -> None:
    held = _tree.hold_tree(tree.root.pid, tree.pidfd)
    assert held is not None
    assert len(held) == 3
    with trio.fail_after(5):
        while not all(map(_tree.is_stopped, tree.pids)):
            await trio.sleep(0.001)
    signal.pidfd_send_signal(tree.pidfd, signal.SIGKILL)
    tree.root.wait()  # from here on its child is the child of another one
    assert [pid for pid in tree.pids[1:] if not _tree.is_stopped(pid)] == []
    _tree.kill_held(held)
    assert held == []
    await tree.wait_gone()
    _tree.kill_held(held)


async def test_what_may_have_been_held_can_still_be_killed_as_a_tree(tree: Tree) -> None:
    held = _tree.hold_tree(tree.root.pid, tree.pidfd)
    assert held is not None
    _tree.kill_tree(tree.root.pid, tree.pidfd)
    await tree.wait_gone()
    _tree.kill_held(held)  # finds nobody, and lets go


def test_a_tree_that_is_too_large_is_not_held(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor each is what it costs, and a host has only so many."""
    monkeypatch.setattr(_tree, "_MAX_HELD", 2)
    assert _tree.hold_tree(tree.root.pid, tree.pidfd) is None
    assert _tree._MAX_HELD < _tree._MAX_DESCENDANTS  # so that all of what is held has been looked at


def test_without_a_descriptor_left_nothing_is_held(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    last = tree.pids[-1]
    opened = _tree.open_child

    def open_child(parent: int, pid: int) -> int | None:
        return None if pid == last else opened(parent, pid)

    freeze = _tree._freeze_descendants(tree.root.pid)
    monkeypatch.setattr(_tree, "_freeze_descendants", lambda _: freeze)
    monkeypatch.setattr(_tree, "open_child", open_child)
    assert _tree.hold_tree(tree.root.pid, tree.pidfd) is None


async def test_what_has_been_reaped_is_not_held_and_not_stopped(tree: Tree) -> None:
    _tree.kill_tree(tree.root.pid, tree.pidfd)
    await tree.wait_gone()
    tree.root.wait()
    assert _tree.hold_tree(tree.root.pid, tree.pidfd) is None
    assert _tree.is_stopped(tree.root.pid) is False
    assert _tree.open_child(os.getpid(), tree.root.pid) is None
