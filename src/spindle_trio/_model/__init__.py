"""Values and enumerations that every room shares: frozen, and free of I/O. No rule about them belongs here.

Importers name this package; the modules below it say where each value lives.
"""

from __future__ import annotations

from spindle_trio._model._calls import (
    METHOD_BYTES as METHOD_BYTES,
)
from spindle_trio._model._calls import (
    MOST_WINDOW as MOST_WINDOW,
)
from spindle_trio._model._calls import (
    CallRequest as CallRequest,
)
from spindle_trio._model._calls import (
    Overrun as Overrun,
)
from spindle_trio._model._ended_process import (
    EndedProcess as EndedProcess,
)
from spindle_trio._model._limits import (
    MEBIBYTE as MEBIBYTE,
)
from spindle_trio._model._limits import (
    REFERENCE_LIMITS as REFERENCE_LIMITS,
)
from spindle_trio._model._limits import (
    Limits as Limits,
)
from spindle_trio._model._options import (
    DEFAULT_TIMEOUT as DEFAULT_TIMEOUT,
)
from spindle_trio._model._options import (
    SURROUNDINGS as SURROUNDINGS,
)
from spindle_trio._model._options import (
    ProcessFilter as ProcessFilter,
)
from spindle_trio._model._options import (
    SpawnArguments as SpawnArguments,
)
from spindle_trio._model._options import (
    SpawnOptions as SpawnOptions,
)
from spindle_trio._model._options import (
    StopOptions as StopOptions,
)
from spindle_trio._model._options import (
    check_grace as check_grace,
)
from spindle_trio._model._options import (
    check_resource_limits as check_resource_limits,
)
from spindle_trio._model._options import (
    name_of_entry as name_of_entry,
)
from spindle_trio._model._post_mortem import (
    NO_HEARTBEAT as NO_HEARTBEAT,
)
from spindle_trio._model._post_mortem import (
    PostMortem as PostMortem,
)
from spindle_trio._model._rich_values import (
    from_plain as from_plain,
)
from spindle_trio._model._rich_values import (
    to_plain as to_plain,
)
from spindle_trio._model._surroundings import (
    checked_arguments as checked_arguments,
)
from spindle_trio._model._surroundings import (
    checked_environment as checked_environment,
)
from spindle_trio._model._values import (
    OMITTED as OMITTED,
)
from spindle_trio._model._values import (
    Containment as Containment,
)
from spindle_trio._model._values import (
    ExitReason as ExitReason,
)
from spindle_trio._model._values import (
    HostStatistics as HostStatistics,
)
from spindle_trio._model._values import (
    JsonValue as JsonValue,
)
from spindle_trio._model._values import (
    LifecycleEvent as LifecycleEvent,
)
from spindle_trio._model._values import (
    Omitted as Omitted,
)
from spindle_trio._model._values import (
    ProcessInfo as ProcessInfo,
)
from spindle_trio._model._values import (
    ProcessState as ProcessState,
)
from spindle_trio._model._values import (
    ProcessStatistics as ProcessStatistics,
)
from spindle_trio._model._values import (
    ResolvedEntry as ResolvedEntry,
)
from spindle_trio._model._worker_messages import (
    CallFailure as CallFailure,
)
from spindle_trio._model._worker_messages import (
    HostToWorker as HostToWorker,
)
from spindle_trio._model._worker_messages import (
    ProcessCall as ProcessCall,
)
from spindle_trio._model._worker_messages import (
    ProcessCallCancel as ProcessCallCancel,
)
from spindle_trio._model._worker_messages import (
    ProcessCallCredit as ProcessCallCredit,
)
from spindle_trio._model._worker_messages import (
    ProcessCallIdle as ProcessCallIdle,
)
from spindle_trio._model._worker_messages import (
    ProcessCallItem as ProcessCallItem,
)
from spindle_trio._model._worker_messages import (
    ProcessGet as ProcessGet,
)
from spindle_trio._model._worker_messages import (
    ProcessLifecycle as ProcessLifecycle,
)
from spindle_trio._model._worker_messages import (
    ProcessList as ProcessList,
)
from spindle_trio._model._worker_messages import (
    ProcessMessage as ProcessMessage,
)
from spindle_trio._model._worker_messages import (
    ProcessReleaseKey as ProcessReleaseKey,
)
from spindle_trio._model._worker_messages import (
    ProcessSend as ProcessSend,
)
from spindle_trio._model._worker_messages import (
    ProcessSendFailed as ProcessSendFailed,
)
from spindle_trio._model._worker_messages import (
    ProcessSpawn as ProcessSpawn,
)
from spindle_trio._model._worker_messages import (
    ProcessStop as ProcessStop,
)
from spindle_trio._model._worker_messages import (
    ProcessUsage as ProcessUsage,
)
from spindle_trio._model._worker_messages import (
    Response as Response,
)
from spindle_trio._model._worker_messages import (
    WorkerToHost as WorkerToHost,
)
