"""The fork server, when the system does not take its datagrams."""

from __future__ import annotations

import errno
import json
import os
import socket

import pytest

from spindle_trio.fork_server._level import Level
from spindle_trio.fork_server._link import Link
from spindle_trio.fork_server._server import _Server


class FullLink:
    """A socket that refuses a few times, as the system does if a user has too many descriptors in transit."""

    def __init__(self, sock: socket.socket, refusals: list[int]) -> None:
        self._socket = sock
        self.refusals = refusals

    def fileno(self) -> int:
        return self._socket.fileno()

    def sendmsg(self, *arguments: object) -> int:
        if self.refusals:
            number = self.refusals.pop()
            raise OSError(number, os.strerror(number))
        return self._socket.sendmsg(*arguments)  # type: ignore[arg-type]  # passed on as they are


def test_a_server_waits_until_descriptors_that_are_on_their_way_have_been_read() -> None:
    """The bound is on all that one user has sent and nobody has read, and is reached when a host that is busy elsewhere
    has asked for hundreds of processes. A server that died of it would take along all processes that there are."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        full = FullLink(there, [errno.ETOOMANYREFS] * 3)
        Link(full).send({"type": "up"})  # type: ignore[arg-type]  # what it uses of a socket
        assert full.refusals == []
        assert json.loads(here.recv(1000)) == {"type": "up"}


def test_any_other_refusal_is_the_end_of_its_host() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        link = Link(FullLink(there, [errno.EPIPE]))  # type: ignore[arg-type]  # as above
        with pytest.raises(BrokenPipeError):
            link.send({"type": "up"})


def test_a_server_reaps_before_it_forks_and_forks_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a process must not wait for hundreds of others to be made: nobody would learn how it has ended."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    done: list[object] = []
    with here, there:
        server = _Server(Link(there), Level())
        server._unreaped[7] = 70
        monkeypatch.setattr(server, "_fork", lambda is_spare, ahead: done.append(is_spare))
        monkeypatch.setattr(server, "_reap", done.append)
        for request in (
            {"type": "fork", "spare": False},
            {"type": "fork", "spare": True},
            {"type": "reap", "number": 7},
        ):
            here.send(json.dumps(request).encode())
        for _ in range(5):
            server.serve_once()
    assert done == [7, False, True]


def test_a_server_whose_host_is_gone_makes_no_process_that_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    done: list[object] = []
    with there:
        server = _Server(Link(there), Level())
        monkeypatch.setattr(server, "_fork", lambda is_spare, ahead: done.append(is_spare))
        with here:
            for _ in range(3):
                here.send(json.dumps({"type": "fork", "spare": False}).encode())
        with pytest.raises(EOFError):
            for _ in range(10):
                server.serve_once()
    assert done == []
