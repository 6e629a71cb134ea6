"""What an end is called, and what a launcher need not implement."""

from __future__ import annotations

import pathlib
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from spindle_trio import READ_ONLY, Command, EntryError, PostMortem, SandboxError, abc
from spindle_trio._model import Limits
from spindle_trio.wire._commands import read_command


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (abc.ExitStatus(), "ended with an unknown status"),
        (abc.ExitStatus(together_with="its fork server (pid 12)"), "ended together with its fork server (pid 12)"),
        (abc.ExitStatus(code=0), "exited with code 0"),
        (abc.ExitStatus(code=3), "exited with code 3"),
        (abc.ExitStatus(signal=9), "killed by SIGKILL, sender unknown (perhaps out of memory)"),
        (abc.ExitStatus(signal=9, out_of_memory=True), "killed by SIGKILL: out of memory"),
        (abc.ExitStatus(signal=9, out_of_memory=False), "killed by SIGKILL, not for lack of memory"),
        (abc.ExitStatus(signal=signal.SIGRTMIN), "killed by SIGRTMIN"),
        (abc.ExitStatus(signal=signal.SIGRTMIN + 7), "killed by SIGRTMIN+7"),
        (abc.ExitStatus(signal=signal.SIGRTMAX), "killed by SIGRTMAX"),
        (abc.ExitStatus(signal=11), "killed by SIGSEGV"),
        (abc.ExitStatus(signal=250), "killed by signal 250"),
    ],
)
def test_an_end_is_named_for_what_it_is(status: abc.ExitStatus, text: str) -> None:
    assert str(status) == text


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (abc.ExitStatus(signal=9), "killed by SIGKILL, sent by its host"),
        (abc.ExitStatus(signal=signal.SIGRTMIN + 7), "killed by SIGRTMIN+7, sent by its host"),
        (abc.ExitStatus(signal=11), "killed by SIGSEGV"),
        (abc.ExitStatus(code=3), "exited with code 3"),
    ],
)
def test_a_host_takes_the_word_for_its_own_signals_and_no_others(status: abc.ExitStatus, text: str) -> None:
    """A process may crash in the moment of its kill."""
    assert status.in_words(by_host=True) == text


class Silent(abc.LaunchedProcess):
    """A process of a launcher that captures no output."""

    def last_heartbeat(self) -> float:
        raise NotImplementedError

    def request_stop(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def has_exited(self) -> bool:
        raise NotImplementedError

    async def wait(self) -> abc.ExitStatus:
        raise NotImplementedError


def test_a_process_need_not_have_a_pid_or_captured_output() -> None:
    process = Silent()
    assert process.pid is None
    assert process.stderr_tail() == ""
    assert process.request_dump() is False
    assert (process.stacks(), process.remark()) == (None, None)
    assert process.output_dropped() == 0
    assert process.control_patience == 0.5


class Minimal(abc.Launcher):
    def resolve(self, entry: str, root: pathlib.Path) -> abc.ResolvedEntry:
        return abc.ResolvedEntry(entry)

    def launch(self, order: abc.LaunchOrder) -> trio.abc.AsyncResource:  # type: ignore[override]  # never called
        raise NotImplementedError


async def test_a_launcher_need_not_start_or_stop_anything() -> None:
    launcher = Minimal()
    await launcher.start()
    await launcher.aclose()


@pytest.mark.parametrize("interface", [abc.Launcher, abc.LaunchedProcess, abc.FrameLane])
def test_an_interface_cannot_be_used_unless_it_is_implemented(interface: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        interface()


def test_an_order_is_a_value() -> None:
    entry = abc.ResolvedEntry("a.py", pathlib.Path("/r/a.py"))
    order = abc.LaunchOrder("p1", entry, pathlib.Path("/r"), {}, Limits())
    assert order == abc.LaunchOrder("p1", entry, pathlib.Path("/r"), {}, Limits())


def test_a_process_need_not_have_limits_or_a_sandbox() -> None:
    process = Silent()
    assert (process.limit_hit(), process.denied("no"), process.usage(), process.peaks()) == (None, None, None, None)


class Plain(abc.Launcher):
    """A launcher that runs entries, and nothing more."""

    def resolve(self, entry: str, root: Path) -> abc.ResolvedEntry:
        raise NotImplementedError

    def launch(self, order: abc.LaunchOrder) -> AbstractAsyncContextManager[abc.LaunchedProcess]:
        raise NotImplementedError


def test_a_launcher_need_not_hold_limits_or_run_commands() -> None:
    launcher = Plain()
    assert (launcher.limit_means, launcher.limit_problems) == ({}, {})
    assert (launcher.sandbox_means, launcher.sandbox_problems) == ({}, {})
    with pytest.raises(EntryError, match="Plain runs no commands, and 'ls' is one: use DefaultLauncher"):
        launcher.resolve_command(Command(["ls"]), Path("/"), {})
    with pytest.raises(SandboxError, match="Plain has no sandboxes"):
        launcher.resolve_sandbox(READ_ONLY, abc.ResolvedEntry("a.py"), Path("/"))


def test_a_post_mortem_names_a_limit_and_a_denied_access() -> None:
    shown = str(PostMortem("no", limit="pids: 20 used of 20", denied="'/etc/shadow': nothing there"))
    assert shown.splitlines() == [
        "no",
        "  resource limit: pids: 20 used of 20",
        "  denied: '/etc/shadow': nothing there",
    ]


def test_a_readiness_by_its_start_may_be_said() -> None:
    assert read_command({"argv": ["ls"], "ready": {"kind": "started"}}) == Command(["ls"])
