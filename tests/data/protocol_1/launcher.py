"""A launcher that was written against protocol 1: its processes have a control lane and a messages lane."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
from collections import deque
from contextlib import asynccontextmanager

import trio

from spindle_trio.abc import ExitStatus, FrameLane, LaunchedProcess, Launcher, ResolvedEntry


class TwoLanesLauncher(Launcher):
    """Runs any file with the interpreter of this program."""

    def __init__(self, pause):
        self._pause = pause  # seconds between two beats

    def resolve(self, entry, root):
        return ResolvedEntry(entry, root / entry)

    @asynccontextmanager
    async def launch(self, order):
        control, control_there = socket.socketpair()
        messages, messages_there = socket.socketpair()
        with control, messages:
            with control_there, messages_there:
                ends = [control_there.fileno(), messages_there.fileno()]
                process = await trio.lowlevel.open_process(
                    [sys.executable, str(order.entry.path), *map(str, ends), str(self._pause)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=ends,
                )
            try:
                yield TwoLanesProcess(process, Lane(control), Lane(messages))
            finally:
                with trio.CancelScope(shield=True):
                    process.kill()
                    await process.wait()


class TwoLanesProcess(LaunchedProcess):
    """A process that beats by frames."""

    def __init__(self, process, control, messages):
        self._process = process
        self.pid = process.pid
        self.control = control
        self.messages = messages

    def last_heartbeat(self):
        return -math.inf

    def request_stop(self):
        pass

    def kill(self):
        self._process.kill()

    def has_exited(self):
        return self._process.poll() is not None

    async def wait(self):
        code = await self._process.wait()
        return ExitStatus(signal=-code) if code < 0 else ExitStatus(code=code)


class Lane(FrameLane):
    """Frames over one socket."""

    def __init__(self, sock):
        sock.setblocking(False)
        self._socket = sock
        self._received = bytearray()
        self._frames = deque()
        self._pending = b""
        self._ended = False

    async def receive(self, max_frames):
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                frames = self.receive_nowait(max_frames)
            except trio.WouldBlock:
                await trio.lowlevel.wait_readable(self._socket)
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()  # what has been taken must not be lost
                return frames

    def receive_nowait(self, max_frames):
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError
        while not self._frames:
            if not self._read():
                raise trio.EndOfChannel if self._ended else trio.WouldBlock
        return [self._frames.popleft() for _ in range(min(max_frames, len(self._frames)))]

    def _read(self):
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        self._ended = not data
        self._received += data
        while len(self._received) >= 4:
            end = 4 + int.from_bytes(self._received[:4], "big")
            if len(self._received) < end:
                break
            self._frames.append(bytes(self._received[4:end]))
            del self._received[:end]
        return bool(data)

    def send_nowait(self, body):
        self._pending = len(body).to_bytes(4, "big") + body
        self._write()
        return not self._pending

    async def send_pending(self, bodies=()):
        self._pending += b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
        while self._pending:
            await trio.lowlevel.wait_writable(self._socket)
            self._write()
        await trio.lowlevel.checkpoint()

    def _write(self):
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError
        try:
            self._pending = self._pending[self._socket.send(self._pending) :]
        except BlockingIOError:
            pass
        except ConnectionError as error:
            raise trio.BrokenResourceError from error

    def close(self):
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
