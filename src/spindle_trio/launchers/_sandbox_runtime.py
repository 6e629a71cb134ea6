"""What ``@runtime`` stands for: the files without which no program of a kind runs."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from spindle_trio.launchers._local._interpreter import search_path
from spindle_trio.launchers._sandbox_paths import outermost

__all__ = ["installation_of", "network_runtime", "python_runtime", "system_runtime"]

_PACKAGE: Final = str(Path(__file__).resolve().parents[1])

_SYSTEM: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/ld.so.preload"),
    *("/etc/alternatives", "/etc/localtime", "/etc/timezone", "/etc/os-release", "/etc/locale.conf", "/etc/mime.types"),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf"),
    *("/etc/crypto-policies", "/sys/devices/system"),
)
"""Programs, libraries and the settings that these read. None of them has secrets on an ordinary system."""

_OF_THE_KERNEL: Final = (
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/loadavg", "/proc/uptime"),
    *("/proc/version", "/proc/sys"),
)
"""What is the same in each `/proc`, whosever it is."""

_OWN: Final = "/proc/self"

_OF_NETWORKS: Final = (
    *("/etc/hosts", "/etc/resolv.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols"),
    *("/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted", "/etc/ca-certificates"),
)
"""Names of others, and certificates: of use only with a network."""


def python_runtime() -> Sequence[str]:
    """List what Python entries need that run in this program's interpreter, or in one like it."""
    return _python_runtime(tuple(search_path()), os.path.expanduser("~"))


@lru_cache(maxsize=8)
def _python_runtime(path: tuple[str, ...], home: str) -> Sequence[str]:
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    own = _real((*prefixes, *path, _PACKAGE))
    return outermost([*system_runtime(), *(folder for folder in own if not _is_too_much(folder, home))])


@lru_cache(maxsize=1)
def system_runtime() -> Sequence[str]:
    """List what any program of this system needs."""
    return outermost([*_real(_SYSTEM), *filter(os.path.exists, _OF_THE_KERNEL), _OWN])


@lru_cache(maxsize=1)
def network_runtime() -> Sequence[str]:
    """List what programs need that speak to others."""
    return outermost(_real(_OF_NETWORKS))


def installation_of(program: str) -> Sequence[str]:
    """List the files and folders of a program: its file, and where it is installed if that is a folder of its own."""
    return _installation_of(program, os.path.expanduser("~"))


@lru_cache(maxsize=64)
def _installation_of(program: str, home: str) -> Sequence[str]:
    found: list[str] = []
    for file in {program, *_real((program,))}:
        folder, name = os.path.split(os.path.dirname(file))
        found += _real((file,))
        if name in {"bin", "sbin"}:
            found += (place for place in _real((folder,)) if not _is_too_much(place, home))
    return outermost(found)


def _real(paths: Iterable[str]) -> Iterator[str]:
    """Find those that exist, with all links followed."""
    for path in paths:
        try:
            yield os.path.realpath(path, strict=True)
        except (OSError, RuntimeError, ValueError):
            continue


def _is_too_much(folder: str, home: str) -> bool:
    """Whether a folder holds the user's home, or is shared by all: a path to import from must not open those."""
    real_home = os.path.realpath(home)
    if folder in {"/", real_home} or real_home.startswith(f"{folder}/"):
        return True
    return bool(os.stat(folder).st_mode & stat.S_IWOTH)
