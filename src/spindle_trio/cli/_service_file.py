"""The file of `spindle-trio up`: services in the order of their start, read and checked before anything starts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

import attrs

import spindle_trio
from spindle_trio import Command, ResourceLimits, RestartPolicy, Sandbox
from spindle_trio.cli import _field_values as values
from spindle_trio.cli import _program_fields as programs
from spindle_trio.cli._advice import SUFFIXES, WANTED
from spindle_trio.cli._checked_table import CheckedFile, CheckedTable, FileRefusedError, listed, near

When: TypeAlias = Literal["never", "on_failure", "always"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]

_WHEN: Final[tuple[When, ...]] = ("never", "on_failure", "always")
_STRATEGIES: Final[tuple[Strategy, ...]] = ("one_for_one", "one_for_all", "rest_for_one")
_NAME: Final = re.compile(r"[\w-]+")
_SERVICE: Final = """[services.db] with entry = "db.py\""""
_EXAMPLE: Final = """{ when = "always", max_lifetime = 3600 }"""
_WORD: Final = values.one_of(_WHEN, f"a table, such as {_EXAMPLE}")
_COUNTED: Final = ("delay", "factor", "max_delay", "jitter", "stable_after", "give_up_after")
_GRACE_PERIOD: Final = 5.0
_ENTRIES: Final = f"the path of a {WANTED} file"
_AT_THE_TOP: Final = "belongs to the file as a whole: put it at the top, before the first table"
_DEFAULTS: Final = spindle_trio.SpawnOptions("")


@attrs.frozen
class ServiceSpec:
    """One service of a file. What the file leaves out has the default of a spawn."""

    name: str
    entry: str | Command
    payload: object
    environment: Mapping[str, str]
    arguments: tuple[str, ...]
    folder: str | None
    key: str | None
    restart: RestartPolicy
    startup_timeout: float
    heartbeat_timeout: float
    grace_period: float
    limits: ResourceLimits | None
    restart_above: ResourceLimits | None
    sandbox: Sandbox | None


@attrs.frozen
class ServiceFile:
    """What a file says."""

    root: Path
    """An absolute path of a folder that exists."""
    strategy: Strategy
    restart: RestartPolicy
    """The policy of all services together."""
    services: tuple[ServiceSpec, ...]
    """At least one, in the order of their start."""

    def with_only(self, names: Collection[str]) -> ServiceFile:
        """Leave out the services that are not named; without names, none.

        Raises:
            FileRefusedError: there is no service of a name.
        """
        known = [service.name for service in self.services]
        for name in names:
            if name not in known:
                raise FileRefusedError(
                    f"--only: there is no service {name}{near(name, known)}; there are {listed(known)}"
                )
        chosen = [service for service in self.services if not names or service.name in names]
        return attrs.evolve(self, services=tuple(chosen))


def read_service_file(file: Path) -> ServiceFile:
    """Read and check a file.

    Args:
        file: its path; the root is relative to its folder.

    Raises:
        FileRefusedError: the file is not as it should be.
        OSError: it cannot be read.
    """
    checked = CheckedFile(str(file), file.read_bytes())
    top = checked.top
    folder = file.absolute().parent
    root = top.take("root", values.folder_below(folder), folder)
    strategy = top.take("strategy", values.one_of(_STRATEGIES), _STRATEGIES[0])
    restart = _policy(top)
    tables = top.table("services", _SERVICE)
    services = [] if tables is None else _services(tables, root, restart)
    if not top.has("services") or (tables is not None and not list(tables)):
        top.wrong("services", f"is missing: add a table for each service, as in {_SERVICE}")
    top.end()
    checked.finish()
    return ServiceFile(root=root, strategy=strategy, restart=restart, services=tuple(services))


def _services(tables: CheckedTable, root: Path, restart: RestartPolicy) -> list[ServiceSpec]:
    found: list[ServiceSpec] = []
    for name in tables:
        if _NAME.fullmatch(name) is None:
            tables.wrong(name, "is no name for a service: it has to be letters, digits, - and _")
        table = tables.table(name, _SERVICE)
        if table is not None:
            found.append(_service(name, table, root, restart))
    return found


def _service(name: str, table: CheckedTable, root: Path, restart: RestartPolicy) -> ServiceSpec:
    """Read one service.

    Args:
        name: of the service.
        table: what the file says of it.
        root: the folder of the entries.
        restart: the policy of all services together.
    """
    entry: str | Command | None = ""
    beats = _DEFAULTS.heartbeat_timeout
    if table.has("command"):
        table.refuse("entry", "cannot stand beside command: a service is an entry or a program")
        entry = programs.read_command(table)
        if entry is not None and entry.ready == "notify":
            beats = math.inf  # most programs that say so never beat
    else:
        programs.refuse_command_fields(table)
        if not table.has("entry"):
            table.wrong(None, f"has no entry; add entry, {_ENTRIES}, or command, a program with its arguments")
        entry = table.take("entry", values.part_of(root, _is_entry, f"{WANTED} file"), "")
    spec = ServiceSpec(
        name=name,
        entry="" if entry is None else entry,
        payload=table.take("payload", values.payload, spindle_trio.OMITTED),
        environment=table.take("environment", values.variables, {}),
        arguments=table.take("arguments", values.words, ()),
        folder=table.take("folder", values.part_of(root, Path.is_dir, "folder"), None),
        key=table.take("key", values.text, None),
        restart=_own_policy(table, restart),
        startup_timeout=table.take("startup_timeout", values.timeout, _DEFAULTS.startup_timeout),
        heartbeat_timeout=table.take("heartbeat_timeout", values.timeout_or_inf, beats),
        grace_period=table.take("grace_period", values.grace, _GRACE_PERIOD),
        limits=programs.read_limits(table, "limits"),
        restart_above=programs.read_limits(table, "restart_above"),
        sandbox=programs.read_sandbox(table),
    )
    table.end(dict.fromkeys(("root", "strategy"), _AT_THE_TOP))
    return spec


def _is_entry(path: Path) -> bool:
    return path.suffix in SUFFIXES and path.is_file()


def _policy(top: CheckedTable) -> RestartPolicy:
    """Read the policy of all services together."""
    usual = RestartPolicy()
    if not top.has("restart", dict):
        return attrs.evolve(usual, when=top.take("restart", _WORD, usual.when))
    fields = top.table("restart", _EXAMPLE)
    assert fields is not None
    return _checked(
        fields,
        usual,
        partial(
            RestartPolicy,
            fields.take("when", values.one_of(_WHEN), usual.when),
            delay=fields.take("delay", values.number, usual.delay),
            factor=fields.take("factor", values.number, usual.factor),
            max_delay=fields.take("max_delay", values.number, usual.max_delay),
            jitter=fields.take("jitter", values.number, usual.jitter),
            stable_after=fields.take("stable_after", values.number, usual.stable_after),
            give_up_after=fields.take("give_up_after", values.count_or_inf, usual.give_up_after),
            max_lifetime=fields.take("max_lifetime", values.number, usual.max_lifetime),
        ),
    )


def _own_policy(table: CheckedTable, whole: RestartPolicy) -> RestartPolicy:
    """Read the policy of one service: it differs from that of all together in when, and in the lifetime."""
    if not table.has("restart", dict):
        when = table.take("restart", _WORD, whole.when)
        return attrs.evolve(whole, when=when, max_lifetime=math.inf if when == "never" else whole.max_lifetime)
    fields = table.table("restart", _EXAMPLE)
    assert fields is not None
    when = fields.take("when", values.one_of(_WHEN), whole.when)
    lifetime = fields.take("max_lifetime", values.number, math.inf if when == "never" else whole.max_lifetime)
    for name in _COUNTED:
        fields.refuse(name, "counts for all services together: put it into restart at the top of the file")
    return _checked(fields, whole, lambda: attrs.evolve(whole, when=when, max_lifetime=lifetime))


def _checked(fields: CheckedTable, usual: RestartPolicy, make: Callable[[], RestartPolicy]) -> RestartPolicy:
    """Make a policy of fields, unless one of them is wrong by itself or beside the others."""
    fields.end()
    if fields.is_sound:
        try:
            return make()
        except ValueError as error:
            named = [name for name in fields if name in str(error)]
            fields.wrong(named[0] if named else None, f"cannot be so: {error}")
    return usual
