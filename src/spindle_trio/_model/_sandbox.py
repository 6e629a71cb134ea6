"""What a process in a sandbox may reach: frozen values, and the checks that need no file system."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from typing import Final, Protocol, runtime_checkable

import attrs

from spindle_trio._model._field_docs import show_fields

__all__ = ["OFFLINE", "READ_ONLY", "WORKSPACE_WRITE", "Sandbox", "SandboxPart", "check_sandbox", "is_inside"]

RUNTIME: Final = "@runtime"
ROOT: Final = "@root"
PRIVATE: Final = "@tmp"

_MEANING: Final = {
    RUNTIME: "the interpreter and the libraries",
    ROOT: "the worker's root",
    PRIVATE: "a fresh private folder",
}
_KNOWN: Final = ", ".join(f"{name} ({what})" for name, what in _MEANING.items())

NETWORKS: Final = ("none", "unix", "host")


class SandboxPart(StrEnum):
    """What holds a sandbox. Each part keeps one kind of access out; a host says which it has, and by which means.

    ``files``: files outside the allowed paths can be neither read nor changed. ``truncate``: files that may only be
    read cannot be cut short either. ``system-calls``: tracing, mounts, namespaces, keyrings, io_uring and the like are
    refused. ``network``: sockets beyond `Sandbox.network` are refused. ``abstract-sockets``: abstract Unix sockets of
    others cannot be reached. ``signals``: processes outside cannot be signalled. No sandbox needs the last two, which
    can be required: ``devices``: devices that it may open take no requests (`ioctl`); ``namespaces``: a user, mount and
    network namespace of its own.
    """

    FILES = "files"
    TRUNCATE = "truncate"
    SYSTEM_CALLS = "system-calls"
    NETWORK = "network"
    ABSTRACT_SOCKETS = "abstract-sockets"
    SIGNALS = "signals"
    DEVICES = "devices"
    NAMESPACES = "namespaces"


@runtime_checkable
class _PathLike(Protocol):
    def __fspath__(self) -> str: ...


def _as_paths(value: object) -> object:
    """Copy a collection of paths; anything else is left to the check."""
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        return value
    return tuple(path.__fspath__() if isinstance(path, _PathLike) else path for path in value)


def _check_paths(_: object, attribute: attrs.Attribute[Sequence[str]], value: object) -> None:
    name = attribute.name
    if not isinstance(value, tuple):
        raise TypeError(f"{name} must be a sequence of paths, as in {name}=['@root', '/srv/data'], not {value!r}")
    for path in value:
        if not isinstance(path, str):
            raise TypeError(f"{name} must be a sequence of paths; {path!r} is none")
        _check_path(name, path)


def _check_path(name: str, path: str) -> None:
    """Refuse what names no path, or more than one way."""
    first, slash, rest = path.partition("/")
    if first.startswith("@"):
        if first not in _MEANING:
            raise ValueError(f"{name}: there is no {first!r}; a path is absolute, or begins with {_KNOWN}")
        if first == RUNTIME and (slash or name != "read"):
            raise ValueError(f"{name}: '@runtime' stands for itself, and in read only")
        if first == PRIVATE and (slash or name == "deny"):
            raise ValueError(f"{name}: '@tmp' stands for itself, and in read and write only: it is a fresh folder")
    elif first:
        hint = "; type os.path.expanduser(…)" if first.startswith("~") else ""
        raise ValueError(f"{name}: {path!r} is not absolute, and does not begin with {_KNOWN}{hint}")
    elif not path:
        raise ValueError(f"{name}: a path is blank")
    if "\0" in path or not _is_unicode(path):
        raise ValueError(f"{name}: {path!r} contains characters that no path may contain")
    if slash and path != "/" and any(part in {"", ".", ".."} for part in rest.split("/")):
        raise ValueError(f"{name}: {path!r} has an empty part, '.' or '..' in it; name the path itself")


def _is_unicode(path: str) -> bool:
    """Whether a path can travel in a frame: it has no lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_network(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    if value not in NETWORKS:
        raise ValueError(f"{attribute.name} must be 'none', 'unix' or 'host', not {value!r}")


def _check_flag(_: object, attribute: attrs.Attribute[bool], value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be a bool, not {type(value).__name__}")


def is_inside(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it, by their texts."""
    return path == folder or path.startswith(folder if folder == "/" else f"{folder}/")


@show_fields
@attrs.frozen
class Sandbox:
    """What a process may reach, together with all that it starts. What is not named is refused.

    A path is absolute, or begins with a name: ``@runtime`` (in `read` only: the interpreter with its `sys.path`, Node
    for JavaScript, the program of a command, and the system's programs and libraries), ``@root`` (the worker's root, as
    in ``"@root/data"``), or ``@tmp`` (a fresh folder for each process, which is its `TMPDIR`, and is removed
    at its end). It must exist when a process is spawned, and no part of it may be a link. The entry's own file can
    always be read. Nothing here holds against a bug in the kernel: see ``notes/sandbox.md``.

    The presets are `READ_ONLY`, `WORKSPACE_WRITE` and `OFFLINE`; ``attrs.evolve(READ_ONLY, network="host")`` makes
    another one of one of them.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a path is neither absolute nor begins with a known name, two paths of one field hold each
            other, `read` names what `write` allows anyway, `deny` holds what is allowed, or there is no such `network`.
    """

    read: Sequence[str] = attrs.field(default=(RUNTIME, ROOT), converter=_as_paths, validator=_check_paths)
    """Files and folders to read and run, with all that is in them."""
    write: Sequence[str] = attrs.field(default=(PRIVATE,), converter=_as_paths, validator=_check_paths)
    """Files and folders to change as well: to write, make, rename and remove what is in them. They may be read, too."""
    deny: Sequence[str] = attrs.field(default=(), converter=_as_paths, validator=_check_paths)
    """Files and folders that are kept out, although `read` or `write` allows a folder that holds them.

    What is made later in a folder on the way to one cannot be reached. A folder on the way to a denied *folder* cannot
    be listed either, so Python imports nothing that lies directly in it.
    """
    network: str = attrs.field(default="none", validator=_check_network)
    """``"none"``: only pairs of sockets that it makes itself; ``"unix"``: Unix sockets by path as well, also those of
    services of this machine; ``"host"``: all that this machine has."""
    subprocesses: bool = attrs.field(default=True, validator=_check_flag)
    """Whether it may start other processes. Threads it may always start."""

    def __attrs_post_init__(self) -> None:
        _refuse_overlaps(self)

    def needs(self) -> list[SandboxPart]:
        """List the parts without which no process gets this sandbox."""
        parts = [SandboxPart.SYSTEM_CALLS, SandboxPart.SIGNALS]
        if not ("/" in self.write and not self.deny):
            parts += [SandboxPart.FILES, SandboxPart.TRUNCATE]
        if self.network != "host":
            parts += [SandboxPart.NETWORK, SandboxPart.ABSTRACT_SOCKETS]
        return sorted(parts, key=list(SandboxPart).index)


def check_sandbox(name: str, value: object) -> None:
    """Check that a value is a sandbox.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, Sandbox):
        raise TypeError(f"{name} must be a Sandbox or None, as in Sandbox(write=['@root']) or READ_ONLY, not {value!r}")


def _refuse_overlaps(sandbox: Sandbox) -> None:
    """Refuse what a reader could take for another rule than it is."""
    for name in ("read", "write", "deny"):
        for holder, held in _pairs(getattr(sandbox, name)):
            what = "is there twice" if holder == held else f"holds {held!r}"
            raise ValueError(f"{name}: {holder!r} {what}; name only {holder!r}")
    for path in sandbox.read:
        for holder in sandbox.write:
            if holder not in {path, "/"} and is_inside(path, holder):
                raise ValueError(
                    f"read: {path!r} lies in {holder!r}, which may be changed, and read cannot take that back; "
                    "name it in deny, or narrow write"
                )
    for denied in sandbox.deny:
        for name in ("read", "write"):
            for path in getattr(sandbox, name):
                if is_inside(path, denied):
                    raise ValueError(f"deny: {denied!r} holds {path!r}, which {name} allows; name one of them")
        allowed = (*sandbox.read, *sandbox.write)
        if not any(is_inside(denied, path) for path in allowed) and not _may_be_inside(denied, allowed):
            raise ValueError(f"deny: nothing allows {denied!r}; deny is for what lies in a path of read or write")


def _may_be_inside(path: str, allowed: Sequence[str]) -> bool:
    """Whether only the resolved paths can tell."""
    return path.startswith("@") or any(name.startswith("@") for name in allowed)


def _pairs(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, path in enumerate(paths):
        for other in paths[number + 1 :]:
            if is_inside(other, path):
                yield path, other
            elif is_inside(path, other):
                yield other, path


READ_ONLY: Final = Sandbox()
"""Reads the runtime and the root; writes nothing that lasts; no network. The same as ``Sandbox()``."""

WORKSPACE_WRITE: Final = Sandbox(read=(RUNTIME,), write=(ROOT, PRIVATE))
"""Reads the runtime; changes whatever is below the root; no network."""

OFFLINE: Final = Sandbox(read=(), write=("/",))
"""All files as without a sandbox, but no network, no tracing, and no signals to others."""
