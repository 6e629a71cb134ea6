"""Supervise child processes that may block, hang, crash or lie, under Trio's rules.

The names below are the public API for hosts and workers. Entries take their context from `spindle_trio.child`, tests
their tools from `spindle_trio.testing`, and authors of launchers their interface from `spindle_trio.abc`.

Importing this package loads nothing else: each name is looked up where it lives when it is first asked for, so that
an entry's ``from spindle_trio.child import ProcessContext`` pays for no host module.
"""

from __future__ import annotations

# Neither `typing` nor `importlib` is imported: every child imports this package, and `typing` alone would cost it more
# than its whole runtime does.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio._errors import (
        CallError,
        CallFailedError,
        CallTimeoutError,
        DuplicateKeyError,
        EntryError,
        KeyLostError,
        LaggedError,
        LaunchError,
        LocalProtocolError,
        PayloadError,
        PeerProtocolError,
        PoolBrokenError,
        ProcessAccessError,
        ProcessLimitError,
        ProcessLostError,
        ProtocolError,
        ResourceLimitError,
        SandboxError,
        ServiceGaveUpError,
        SpawnError,
        SpawnRefusedError,
        SpindleError,
        StartupCancelledError,
        StartupFailedError,
        StartupTimeoutError,
        UnknownMethodError,
        UserRequiredError,
    )
    from spindle_trio._functions._function_pool import FunctionPool, open_function_pool
    from spindle_trio._messages._channel import MessageReceiveChannel
    from spindle_trio._model import (
        OMITTED,
        REFERENCE_LIMITS,
        CallFailure,
        Containment,
        EndedProcess,
        ExitReason,
        HostStatistics,
        HostToWorker,
        JsonValue,
        LifecycleEvent,
        Limits,
        PostMortem,
        ProcessCall,
        ProcessCallCancel,
        ProcessCallCredit,
        ProcessCallIdle,
        ProcessCallItem,
        ProcessFilter,
        ProcessGet,
        ProcessInfo,
        ProcessLifecycle,
        ProcessList,
        ProcessMessage,
        ProcessReleaseKey,
        ProcessSend,
        ProcessSendFailed,
        ProcessSpawn,
        ProcessState,
        ProcessStatistics,
        ProcessStop,
        ProcessUsage,
        Response,
        SpawnOptions,
        StopOptions,
        WorkerToHost,
    )
    from spindle_trio._model._command import Command, Http, Line, Tcp
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._model._sandbox import OFFLINE, READ_ONLY, WORKSPACE_WRITE, Sandbox, SandboxPart
    from spindle_trio._model._usage import Usage
    from spindle_trio._open_host import Host, open_host
    from spindle_trio._pools import Pool, PoolMap, PoolStatistics, open_pool
    from spindle_trio._process_handle import ProcessHandle
    from spindle_trio._services._group import Group
    from spindle_trio._services._open_group import open_group
    from spindle_trio._services._open_service import open_service
    from spindle_trio._services._restart import RestartPolicy
    from spindle_trio._services._service import Service
    from spindle_trio._services._values import ServiceEvent, ServiceEventKind, ServiceMessage
    from spindle_trio._worker import BackendProcesses, Worker
    from spindle_trio._worker_protocol import StreamChannel, connect_worker
    from spindle_trio.launchers import (
        DEFAULT_PRELOAD,
        DefaultLauncher,
        ForkServerLauncher,
        NodeLauncher,
        PythonLauncher,
    )

__version__: str = "0.1.0"

_NAMES = {
    "_worker_protocol": ("StreamChannel", "connect_worker"),
    "_errors": (
        "CallError",
        "CallFailedError",
        "CallTimeoutError",
        "DuplicateKeyError",
        "EntryError",
        "KeyLostError",
        "LaggedError",
        "LaunchError",
        "LocalProtocolError",
        "PayloadError",
        "PeerProtocolError",
        "PoolBrokenError",
        "ProcessAccessError",
        "ProcessLimitError",
        "ProcessLostError",
        "ProtocolError",
        "ResourceLimitError",
        "SandboxError",
        "ServiceGaveUpError",
        "SpawnError",
        "SpawnRefusedError",
        "SpindleError",
        "StartupCancelledError",
        "StartupFailedError",
        "StartupTimeoutError",
        "UnknownMethodError",
        "UserRequiredError",
    ),
    "_messages._channel": ("MessageReceiveChannel",),
    "_open_host": ("Host", "open_host"),
    "_model": (
        "OMITTED",
        "REFERENCE_LIMITS",
        "CallFailure",
        "Containment",
        "EndedProcess",
        "ExitReason",
        "HostStatistics",
        "HostToWorker",
        "JsonValue",
        "LifecycleEvent",
        "Limits",
        "PostMortem",
        "ProcessCall",
        "ProcessCallCancel",
        "ProcessCallCredit",
        "ProcessCallIdle",
        "ProcessCallItem",
        "ProcessFilter",
        "ProcessGet",
        "ProcessInfo",
        "ProcessLifecycle",
        "ProcessList",
        "ProcessMessage",
        "ProcessReleaseKey",
        "ProcessSend",
        "ProcessSendFailed",
        "ProcessSpawn",
        "ProcessState",
        "ProcessStatistics",
        "ProcessStop",
        "ProcessUsage",
        "Response",
        "SpawnOptions",
        "StopOptions",
        "WorkerToHost",
    ),
    "_model._command": ("Command", "Http", "Line", "Tcp"),
    "_model._resource_limits": ("ResourceLimits",),
    "_model._usage": ("Usage",),
    "_model._sandbox": ("OFFLINE", "READ_ONLY", "WORKSPACE_WRITE", "Sandbox", "SandboxPart"),
    "_functions._function_pool": ("FunctionPool", "open_function_pool"),
    "_pools": ("Pool", "PoolMap", "PoolStatistics", "open_pool"),
    "_process_handle": ("ProcessHandle",),
    "_services._group": ("Group",),
    "_services._open_group": ("open_group",),
    "_services._open_service": ("open_service",),
    "_services._restart": ("RestartPolicy",),
    "_services._service": ("Service",),
    "_services._values": ("ServiceEvent", "ServiceEventKind", "ServiceMessage"),
    "_worker": ("BackendProcesses", "Worker"),
    "launchers": ("DEFAULT_PRELOAD", "DefaultLauncher", "ForkServerLauncher", "NodeLauncher", "PythonLauncher"),
}
"""Which module each public name lives in; a test holds it against the names that type checkers see above."""

_HOMES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}

__all__ = [
    "DEFAULT_PRELOAD",
    "OFFLINE",
    "OMITTED",
    "READ_ONLY",
    "REFERENCE_LIMITS",
    "WORKSPACE_WRITE",
    "BackendProcesses",
    "CallError",
    "CallFailedError",
    "CallFailure",
    "CallTimeoutError",
    "Command",
    "Containment",
    "DefaultLauncher",
    "DuplicateKeyError",
    "EndedProcess",
    "EntryError",
    "ExitReason",
    "ForkServerLauncher",
    "FunctionPool",
    "Group",
    "Host",
    "HostStatistics",
    "HostToWorker",
    "Http",
    "JsonValue",
    "KeyLostError",
    "LaggedError",
    "LaunchError",
    "LifecycleEvent",
    "Limits",
    "Line",
    "LocalProtocolError",
    "MessageReceiveChannel",
    "NodeLauncher",
    "PayloadError",
    "PeerProtocolError",
    "Pool",
    "PoolBrokenError",
    "PoolMap",
    "PoolStatistics",
    "PostMortem",
    "ProcessAccessError",
    "ProcessCall",
    "ProcessCallCancel",
    "ProcessCallCredit",
    "ProcessCallIdle",
    "ProcessCallItem",
    "ProcessFilter",
    "ProcessGet",
    "ProcessHandle",
    "ProcessInfo",
    "ProcessLifecycle",
    "ProcessLimitError",
    "ProcessList",
    "ProcessLostError",
    "ProcessMessage",
    "ProcessReleaseKey",
    "ProcessSend",
    "ProcessSendFailed",
    "ProcessSpawn",
    "ProcessState",
    "ProcessStatistics",
    "ProcessStop",
    "ProcessUsage",
    "ProtocolError",
    "PythonLauncher",
    "ResourceLimitError",
    "ResourceLimits",
    "Response",
    "RestartPolicy",
    "Sandbox",
    "SandboxError",
    "SandboxPart",
    "Service",
    "ServiceEvent",
    "ServiceEventKind",
    "ServiceGaveUpError",
    "ServiceMessage",
    "SpawnError",
    "SpawnOptions",
    "SpawnRefusedError",
    "SpindleError",
    "StartupCancelledError",
    "StartupFailedError",
    "StartupTimeoutError",
    "StopOptions",
    "StreamChannel",
    "Tcp",
    "UnknownMethodError",
    "Usage",
    "UserRequiredError",
    "Worker",
    "WorkerToHost",
    "__version__",
    "connect_worker",
    "open_function_pool",
    "open_group",
    "open_host",
    "open_pool",
    "open_service",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
