"""The part that all launchers on a fork server share: a server, and the processes that it has forked.

One task owns the server, from `start` to `aclose`. When the server is gone, launches that wait for it fail, its
processes die with it (each pidfd shows that), and the task starts another one, after a pause that doubles with each
server that did not live long. Launches in between wait for the new one.

`_process_pool` has the unused processes, and an `Engine` writes what a process is to run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._environment import passed_on_environment
from spindle_trio._model import Containment, ResolvedEntry
from spindle_trio.abc import Launcher, LaunchOrder
from spindle_trio.launchers._entry_path import KnownEntries, resolve_folder
from spindle_trio.launchers._local._descriptors import RESERVE, raise_limit
from spindle_trio.launchers._local._engine import Engine
from spindle_trio.launchers._local._first_frames import LimitedOrder, check_surroundings, with_private_folder
from spindle_trio.launchers._local._fork_server_client import ForkServer
from spindle_trio.launchers._local._fork_server_start import ServerOrder
from spindle_trio.launchers._local._local_process import LocalProcess, ProcessBlock, ToldProcess, tell
from spindle_trio.launchers._local._memory_events import MemoryEvents
from spindle_trio.launchers._local._output_drains import OutputDrains
from spindle_trio.launchers._local._preload import NO_PRELOAD, Preload
from spindle_trio.launchers._local._process_pool import ProcessPool
from spindle_trio.launchers._local._requirements import require_real_processes
from spindle_trio.launchers._local._system_limits import limit_behind

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._model._sandbox import Sandbox, SandboxPart
    from spindle_trio.abc import SandboxRules
    from spindle_trio.launchers._local._held_limits import HeldLimits, LimitKeeper
    from spindle_trio.launchers._local._private_folders import PrivateFolder, PrivateFolders

__all__ = ["ServerLauncher"]

FIRST_PAUSE: Final = 0.1
"""Seconds before replacing an ended server; doubled up to `LONGEST_PAUSE` while servers do not live long."""

LONGEST_PAUSE: Final = 5.0

LONG_LIFE: Final = 10.0
"""Seconds after which a server counts as one that works."""

_log = logging.getLogger("spindle_trio.launchers")


class ServerLauncher(Launcher):
    """A launcher that has a fork server while it serves a host."""

    def __init__(
        self,
        *engines: Engine,
        spares: int,
        containment: Containment | str | None,
        preload: Preload = NO_PRELOAD,
        execs: bool = False,
    ) -> None:
        """Prepare; starts nothing.

        Args:
            engines: they run entries, each with suffixes of its own.
            spares: how many processes wait for the next launches.
            containment: the one acceptable level; `None` for the strongest that works.
            preload: what the server loads once, for all processes.
            execs: whether each process becomes another program.

        Raises:
            ValueError: `spares` is negative or not an integer, or `containment` is not a level.
        """
        if type(spares) is not int or spares < 0:
            raise ValueError(f"spares must be an integer, 0 or more, not {spares!r}")
        self._engines: Final = engines
        self._entries: Final = KnownEntries(tuple(suffix for engine in engines for suffix in engine.suffixes))
        self._preload: Final = preload
        self._wanted_containment = None if containment is None else Containment(containment)
        self._execs: Final = execs
        self._pool: Final = ProcessPool(spares)
        self._credentials: tuple[object, ...] = ()  # the server's
        self._memory_events: MemoryEvents | None = None
        self._private_folders: PrivateFolders | None = None
        self._limit_keeper: LimitKeeper | None = None
        self._is_started = False
        self._containment: Containment | None = None
        self._containment_problems: Mapping[Containment, str] = {}

    def __repr__(self) -> str:
        server = "no server" if self.server_pid is None else f"server pid={self.server_pid}"
        preload, spares = self._preload.modules, self._pool.wanted_spares
        return f"{type(self).__name__}(preload={preload!r}, spares={spares}) <{server}>"

    @property
    def containment(self) -> Containment | None:
        """The level that works here; see `Launcher.containment`."""
        return self._containment

    @property
    def containment_problems(self) -> Mapping[Containment, str]:
        """Why each stronger level does not work, and what this one lacks; see `Launcher.containment_problems`."""
        return self._containment_problems

    @property
    def server_pid(self) -> int | None:
        """The pid of the server; `None` while there is none."""
        server = self._pool.server
        return None if server is None else server.pid

    async def start(self) -> None:
        """Start the server, and return once it can fork; see `Launcher.start`.

        Raises:
            RuntimeError: this system lacks something, this program does not run in real time, a module cannot be
                preloaded, the requested level of containment does not work, this launcher already serves another host,
                or a limit of the system is reached; says what is wrong.
            OSError: the system refused to start the server, for another reason than a limit.
        """
        name = type(self).__name__
        require_real_processes(name)
        if self._is_started:
            raise RuntimeError(f"this {name} serves a host already; give each host a launcher of its own")
        self._is_started = True
        self._limit_keeper = None  # of an earlier host
        RESERVE.open()
        try:
            raise_limit()
            server = await self._start_server(self._wanted_containment)
        except BaseException as error:
            RESERVE.close()
            self._is_started = False
            limit = limit_behind(error) if isinstance(error, (OSError, RuntimeError)) else None
            if limit is not None:
                said = (error.strerror if isinstance(error, OSError) else None) or error
                raise RuntimeError(f"{name} cannot start: {said}: {limit}") from error  # noqa: ASYNC104  # no `Cancelled`
            raise
        self._memory_events = MemoryEvents.of_this_program()
        self._drains = OutputDrains()
        self._scope = trio.CancelScope(shield=True)
        self._use(server)
        # Its one task has a shield of its own until `aclose`: it reaps processes even while the code that opened the
        # host is being cancelled.
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._run, server)

    async def aclose(self) -> None:
        """End the server and whatever it has forked; see `Launcher.aclose`."""
        self._scope.cancel()
        if self._limit_keeper is not None:
            self._limit_keeper.stop()
        self._nursery.cancel_scope.shield = True  # its task ends at once, within the bounds of `ForkServer.end`
        try:
            await self._nursery_manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            if group.split(KeyboardInterrupt)[1] is not None:
                raise
            raise KeyboardInterrupt from None  # came while its task ended; nothing else wraps it in a group
        finally:
            self._drains.close()
            RESERVE.close()
            self._is_started = False
            if self._limit_keeper is not None:
                self._limit_keeper.close()
            folders, self._private_folders = self._private_folders, None
            if folders is not None:
                await folders.aclose()  # noqa: ASYNC102  # shields itself, and is bounded

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        """Accept or refuse an entry; see `Launcher.resolve`.

        Raises:
            EntryError: as there, and if nothing can run it.
        """
        resolved = self._entries.resolve(entry, root)
        self._engine_for(resolved).require(resolved)
        return resolved

    def resolve_command(self, command: Command, root: Path, environment: Mapping[str, str]) -> ResolvedEntry:
        """Find the program of a command; see `Launcher.resolve_command`.

        Raises:
            EntryError: as there, and if nothing here runs Python, behind which programs run.
        """
        if not any(".py" in engine.suffixes for engine in self._engines):
            return super().resolve_command(command, root, environment)
        from spindle_trio.launchers._programs import resolve_program  # only for those who use it

        return resolve_program(command, root, environment)

    def resolve_folder(self, folder: str, root: Path) -> Path:
        """Accept or refuse a folder; see `Launcher.resolve_folder`."""
        return resolve_folder(folder, root)

    @property
    def sandbox_means(self) -> Mapping[SandboxPart, str]:
        """By which means parts of a sandbox are held; see `Launcher.sandbox_means`."""
        return self._parts()[0]

    @property
    def sandbox_problems(self) -> Mapping[SandboxPart, str]:
        """Why parts of a sandbox cannot be had; see `Launcher.sandbox_problems`."""
        return self._parts()[1]

    def _parts(self) -> tuple[Mapping[SandboxPart, str], Mapping[SandboxPart, str]]:
        from spindle_trio.launchers._local._sandbox_parts import find_parts  # most programs have no sandboxes

        self._pool.expect_sandboxes()  # who asks is about to use some
        return find_parts(self._containment)

    def resolve_sandbox(self, sandbox: Sandbox, entry: ResolvedEntry, root: Path) -> SandboxRules:
        """Accept or refuse a sandbox; see `Launcher.resolve_sandbox`."""
        from spindle_trio.launchers._sandbox_paths import resolve_sandbox  # most programs have none

        return resolve_sandbox(sandbox, entry, root, self._runtime(sandbox, entry))

    def _runtime(self, sandbox: Sandbox, entry: ResolvedEntry) -> Sequence[str]:
        """List what ``@runtime`` stands for, if the sandbox names it."""
        if "@runtime" not in sandbox.read:
            return ()
        from spindle_trio.launchers._sandbox_runtime import installation_of, network_runtime  # as above

        runtime = self._engine_for(entry).runtime(entry)
        program = () if entry.program is None else installation_of(str(entry.program))
        return [*runtime, *program, *(network_runtime() if sandbox.network == "host" else ())]

    def launch(self, order: LaunchOrder) -> ProcessBlock:
        """Give a process the entry to run; see `Launcher.launch`.

        A spare gets it at once, and works on it while the host still prepares for it. What goes wrong with that is
        raised when the block is entered.
        """
        folder: PrivateFolder | None = None
        held: HeldLimits | None = None
        try:
            self._check(order)
            if order.sandbox is not None and (order.sandbox.private_read or order.sandbox.private_write):
                folder = self._private_folder()
                order = with_private_folder(order, folder.path)
            if order.command is not None:
                from spindle_trio.launchers._programs import behind_shim  # only for those who use it

                if order.command.ready == "notify":
                    folder = folder or self._private_folder()
                order = behind_shim(order, order.command, folder)
            if order.resource_limits is not None:
                held = self._limits().hold(order.resource_limits, self._nursery.start_soon)
                order = LimitedOrder.of(order, held.order)
            told = self._tell_spare(order)
        except Exception as error:
            if held is not None:
                held.release()
            return ProcessBlock(partial(_fail, [error]), folder)
        return ProcessBlock(partial(self._launch, order, told, held), folder)

    @property
    def limit_means(self) -> Mapping[str, str]:
        """By which means limits are held; see `Launcher.limit_means`."""
        return self._limits().means

    @property
    def limit_problems(self) -> Mapping[str, str]:
        """Why limits are held by weaker means, or not at all; see `Launcher.limit_problems`."""
        return self._limits().problems

    def _limits(self) -> LimitKeeper:
        if self._limit_keeper is None:
            from spindle_trio.launchers._local._held_limits import LimitKeeper  # most programs have no limits
            from spindle_trio.launchers._local._limit_groups import LimitGroups

            why = None
            if self._containment is Containment.CGROUP:
                why = "control groups of version 2 contain the processes already"
            self._limit_keeper = LimitKeeper(LimitGroups.of_this_program(without_version_2=why))
        return self._limit_keeper

    def _private_folder(self) -> PrivateFolder:
        if self._private_folders is None:
            from spindle_trio.launchers._local._private_folders import PrivateFolders  # most programs have no sandboxes

            self._private_folders = PrivateFolders()
            self._nursery.start_soon(self._private_folders.sweep)
        return self._private_folders.make()

    def _engine_for(self, entry: ResolvedEntry) -> Engine:
        # A command has a name of its own, and runs behind a Python file.
        file = entry.entry if entry.program is None else str(entry.path)
        return next(engine for engine in self._engines if file.endswith(engine.suffixes))

    def _check(self, order: LaunchOrder) -> None:
        check_surroundings(order)
        if _credentials() != self._credentials:
            raise PermissionError(
                "this program has changed its user or groups since its fork server was started, and processes would "
                "have the old ones; open the host after the change"
            )

    def _tell_spare(self, order: LaunchOrder) -> ToldProcess | None:
        """Send a spare its first frames, if there is one that is alive."""
        if self._pool.server is None:
            return None
        program = self._engine_for(order.entry).prepare(order, self._pool.server)
        while (spare := self._pool.take_spare(str(order.entry.path))) is not None:
            try:
                return tell(spare, program, order.limits)
            except trio.BrokenResourceError:
                spare.discard()  # it has just ended
            except BaseException:
                spare.discard()
                raise
        return None

    async def _launch(self, order: LaunchOrder, told: ToldProcess | None, held: HeldLimits | None) -> LocalProcess:
        try:
            forked = await self._pool.take(str(order.entry.path)) if told is None else told.forked
        except BaseException:
            if held is not None:
                held.release()
            raise
        try:
            if told is None:
                program = self._engine_for(order.entry).prepare(order, forked.parent)
                told = tell(forked, program, order.limits, may_have_ended=True)
            process = LocalProcess(order, told, self._drains, self._memory_events, held)
        except BaseException:
            await forked.end()  # noqa: ASYNC102  # bounded; as for any launch that is given up
            if held is not None:
                held.release()
            raise
        self._pool.note_launch(told.program.file)
        return process

    # The server's life.

    async def _start_server(self, containment: Containment | None) -> ForkServer:
        return await ForkServer.start(ServerOrder(passed_on_environment(), self._preload, containment, self._execs))

    @trio.lowlevel.enable_ki_protection
    async def _run(self, server: ForkServer) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drains.run)
                nursery.start_soon(self._pool.keep_spares)
                await self._keep_servers(server)

    async def _keep_servers(self, server: ForkServer) -> None:
        """Run one server after the other, until `aclose`."""
        pause = FIRST_PAUSE
        while True:
            began_at = trio.current_time()
            try:
                await server.serve(self._pool.hear)
            finally:
                error = OSError(f"the fork server (pid {server.pid}) has ended; another one is started")
                await self._pool.drop_server(error)  # noqa: ASYNC102  # shields itself, and is bounded
            said = server.output_tail()
            _log.error("fork server %d has ended, and all its processes with it%s", server.pid, said and f": {said}")
            if trio.current_time() - began_at > LONG_LIFE:
                pause = FIRST_PAUSE
            server, pause = await self._start_again(pause)

    async def _start_again(self, pause: float) -> tuple[ForkServer, float]:
        """Start another server, in as many attempts as it takes; return it with the pause before the next one."""
        while True:
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                server = await self._start_server(self._containment)
            except Exception as error:
                _log.exception("no fork server could be started; the next attempt follows in %g s", pause)
                self._pool.refuse_waiting(OSError(f"no fork server could be started: {error}"))
            else:
                self._use(server)
                return server, pause

    def _use(self, server: ForkServer) -> None:
        self._containment = server.containment
        self._containment_problems = server.containment_problems
        self._credentials = _credentials()
        self._drains.add(server.output)
        self._pool.use(server)


async def _fail(failure: list[Exception]) -> LocalProcess:  # noqa: ASYNC124  # a block awaits it, as `_launch`
    raise failure.pop()  # its traceback has this frame, which would keep it from being freed


def _credentials() -> tuple[object, ...]:
    """Return the users and groups that this program runs as."""
    return os.getresuid(), os.getresgid(), os.getgroups()
