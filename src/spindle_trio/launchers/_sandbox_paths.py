"""Finds the files and folders that a sandbox allows: names and texts become absolute paths without links."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from spindle_trio._errors import SandboxError
from spindle_trio._model import ResolvedEntry
from spindle_trio._model._sandbox import PRIVATE, ROOT, RUNTIME, Sandbox, is_inside
from spindle_trio.abc import SandboxRules

__all__ = ["DEVICES", "outermost", "resolve_sandbox"]

DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
"""Devices that each process may read and write: they keep nothing, and give nothing away."""

_MOST_BESIDE: Final = 4_096
"""How many files and folders may stand beside those that are kept out."""


def resolve_sandbox(sandbox: Sandbox, entry: ResolvedEntry, root: Path, runtime: Iterable[str]) -> SandboxRules:
    """Find the paths of a sandbox, or say what is wrong with one.

    Args:
        sandbox: as the caller gave it.
        entry: the entry; its file can always be read.
        root: the worker's root.
        runtime: what ``@runtime`` stands for: real paths that exist.

    Raises:
        SandboxError: a path does not exist or leads through a link, or what is allowed and what is denied contradict
            each other now that they are resolved.
    """
    try:
        real_root = os.path.realpath(root, strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise SandboxError(f"the root {str(root)!r} of a sandbox cannot be used: {error}") from None
    deny = [_found("deny", path, real_root) for path in sandbox.deny]
    write = [_found("write", path, real_root) for path in sandbox.write if path != PRIVATE]
    read: list[str] = []
    for given in sandbox.read:
        if given not in {PRIVATE, RUNTIME}:
            path = _found("read", given, real_root)
            _refuse_read_in_write(given, path, write)
            read.append(path)
    if RUNTIME in sandbox.read:
        read += runtime
    if entry.path is not None:
        read.append(os.path.realpath(entry.path))
    listed: list[str] = []
    if deny:
        _refuse_contradictions(deny, read, write)
        listed = outermost(folder for path in (*read, *write) for folder in _listable(deny, path))
        read, write = _without(deny, read), _without(deny, write)
    read, write = _joined(tuple(read), tuple(write))
    return SandboxRules(
        read=read,
        write=write,
        listed=tuple(listed),
        network=sandbox.network,
        subprocesses=sandbox.subprocesses,
        private_read=PRIVATE in sandbox.read,
        private_write=PRIVATE in sandbox.write,
    )


@lru_cache(maxsize=64)
def _joined(read: Sequence[str], write: Sequence[str]) -> tuple[list[str], list[str]]:
    """Leave out what is allowed anyway, and add the devices. Nobody may change the lists."""
    write = outermost([*write, *DEVICES])
    return [path for path in outermost(read) if not any(is_inside(path, folder) for folder in write)], write


def _found(name: str, path: str, real_root: str) -> str:
    """Find what a path of a sandbox stands for."""
    first, _, rest = path.partition("/")
    if path == ROOT:
        return real_root
    text = path if first != ROOT else f"{real_root if real_root != '/' else ''}/{rest}"
    shown = repr(path) if first != ROOT else f"{path!r} (that is {text!r})"
    try:
        real = os.path.realpath(text, strict=True)
    except FileNotFoundError:
        raise SandboxError(f"{name}: there is no {shown}; a path of a sandbox must exist before the spawn") from None
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links is a RuntimeError before Python 3.13
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise SandboxError(f"{name}: {shown} cannot be used: {reason}") from None
    if real != text:
        raise SandboxError(f"{name}: {shown} leads through a link, to {real!r}; name that, if it is meant")
    return real


def _refuse_read_in_write(given: str, path: str, write: Sequence[str]) -> None:
    for folder in write:
        if folder not in {path, "/"} and is_inside(path, folder):
            raise SandboxError(
                f"read: {given!r} lies in {folder!r}, which may be changed, and read cannot take that back; "
                "name it in deny, or narrow write"
            )


def _refuse_contradictions(deny: Sequence[str], read: Sequence[str], write: Sequence[str]) -> None:
    for denied in deny:
        for name, paths in (("read", read), ("write", write)):
            for path in paths:
                if is_inside(path, denied):
                    raise SandboxError(f"deny: {denied!r} holds {path!r}, which {name} allows; name one of them")
        if not any(is_inside(denied, path) for path in (*read, *write)):
            raise SandboxError(f"deny: nothing allows {denied!r}; deny is for what lies in a path of read or write")


def _without(deny: Sequence[str], allowed: Iterable[str]) -> list[str]:
    """List what is left of the allowed paths: a kernel can only allow, so each thing beside a denied one is named."""
    left: list[str] = []
    for path in allowed:
        held = [denied for denied in deny if is_inside(denied, path)]
        left += _beside(held, path) if held else [path]
        if len(left) > _MOST_BESIDE:
            raise SandboxError(
                f"deny: more than {_MOST_BESIDE} things stand beside what it names; "
                "name smaller folders in read and write instead"
            )
    return left


def _listable(deny: Sequence[str], folder: str) -> Iterator[str]:
    """Find the folders on the way to what is denied that can be listed: a kernel that lists one lists all below it."""
    held = [denied for denied in deny if is_inside(denied, folder)]
    if not any(os.path.isdir(denied) for denied in held):
        yield from [folder] if held else []
        return
    prefix = folder.rstrip("/")
    for path in sorted({f"{prefix}/{denied.removeprefix(f'{prefix}/').partition('/')[0]}" for denied in held}):
        if path not in held:
            yield from _listable(held, path)


def _beside(denied: Sequence[str], folder: str) -> Iterator[str]:
    try:
        entries = sorted(entry.path for entry in os.scandir(folder) if not entry.is_symlink())
    except OSError as error:
        raise SandboxError(f"deny: {folder!r} cannot be listed to leave out {denied[0]!r}: {error.strerror}") from None
    for path in entries:
        if path in denied:
            continue
        held = [each for each in denied if is_inside(each, path)]
        if held:
            yield from _beside(held, path)
        else:
            yield path


def outermost(paths: Iterable[str]) -> list[str]:
    """Leave out each path that lies in another one."""
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split("/")):
        if not kept or not is_inside(path, kept[-1]):
            kept.append(path)
    return kept
