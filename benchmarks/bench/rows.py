"""Every row of the table: what to measure, where, and the targets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from bench import (
    call_peers,
    calls,
    heartbeats,
    in_memory,
    javascript,
    killing,
    memory,
    messages,
    peers,
    scaling,
    soak,
    spawning,
)
from bench.measuring import Measurement, Settings
from bench.verdicts import (
    Rule,
    at_least,
    at_least_times,
    at_most,
    at_most_times,
    times_faster,
    times_smaller,
)


@attrs.frozen
class Row:
    """One row."""

    name: str
    what: str
    target: str
    measure: Callable[[Settings], Awaitable[Measurement]]
    rules: tuple[Rule, ...]
    by_default: bool = True
    """Whether to measure it if no row is named."""


ROWS = (
    Row(
        "spawn-warm",
        "spawn → ready, default launcher, warm spare, `async` entry",
        "≤ 1.0 ms median, and ≤ 1/50 of each: trio-parallel cold, anyio `to_process` cold, multiprocessing spawn, "
        "node `child_process.fork`",
        spawning.warm_spare,
        (
            at_most(spawning.WARM_ASYNC, 1.0),
            at_most(spawning.WARM_ASYNC_IN_A_ROW, 1.0),
            times_faster(spawning.WARM_ASYNC, 50, peers.TRIO_PARALLEL_COLD),
            times_faster(spawning.WARM_ASYNC, 50, peers.ANYIO),
            times_faster(spawning.WARM_ASYNC, 50, peers.MP_SPAWN),
            times_faster(spawning.WARM_ASYNC, 50, peers.NODE_FORK),
        ),
    ),
    Row(
        "spawn-forked",
        "spawn → ready, no spare left",
        "≤ 2 × the fork floor for the same preload and containment level; ≥ 3 × faster than multiprocessing "
        "forkserver with that preload",
        spawning.forked,
        (
            at_most_times(spawning.FORKED_BLOCKING, 2, spawning.FORK_FLOOR),
            times_faster(spawning.FORKED_BLOCKING, 3, peers.MP_FORKSERVER),
            at_most_times(spawning.FORKED_ASYNC, 2, spawning.FORK_TRIO_FLOOR),
        ),
    ),
    Row(
        "spawn-sandboxed",
        "spawn → ready, warm, in a sandbox",
        "≤ 2.5 ms: 1.5 ms more than the bound of a warm spawn without one",
        spawning.sandboxed,
        (at_most(spawning.SANDBOXED_ASYNC, 2.5), at_most(spawning.SANDBOXED_BLOCKING, 2.5)),
    ),
    Row(
        "spawn-levels",
        "spawn → ready, no spare left, at each level of containment",
        "none; each beside its own floor",
        spawning.levels,
        (),
    ),
    Row(
        "spawn-exec",
        "spawn → ready, exec launcher, blocking entry",
        "≤ 1.3 × an empty interpreter with the flags that the launcher uses; ≥ 3 × faster than multiprocessing spawn",
        spawning.executed,
        (
            at_most_times(spawning.EXEC_BLOCKING, 1.3, spawning.INTERPRETER_FLOOR),
            times_faster(spawning.EXEC_BLOCKING, 3, peers.MP_SPAWN),
        ),
    ),
    Row(
        "spawn-pipelined",
        "100 pipelined spawns",
        "≤ 1.5 ms each",
        spawning.pipelined,
        (at_most(spawning.PIPELINED_BLOCKING, 1.5), at_most(spawning.PIPELINED_ASYNC, 1.5)),
    ),
    Row(
        "idle-memory",
        "memory of an idle child (USS, the entry's process; server and inits listed beside it)",
        "≤ 1 MiB blocking entry on a lean server (`preload=()`), ≤ 3 MiB on the default one; ≥ 2 × less than "
        "multiprocessing forkserver",
        memory.idle_children,
        (
            at_most(memory.LEAN_BLOCKING, 1.0),
            at_most(memory.DEFAULT_BLOCKING, 3.0),
            at_most(memory.DEFAULT_ASYNC, 3.0),
            times_smaller(memory.DEFAULT_BLOCKING, 2, peers.MP_FORKSERVER),
            times_smaller(memory.DEFAULT_ASYNC, 2, peers.MP_FORKSERVER_TRIO),
        ),
    ),
    Row(
        "round-trip",
        "100 B round trip, host ↔ blocking entry",
        "≤ 2.2 × raw socket echo; ≥ 2 × faster than trio-parallel's warm call",
        messages.round_trips,
        (
            at_most_times(messages.ROUND_TRIP, 2.2, messages.SOCKET_ECHO),
            times_faster(messages.ROUND_TRIP, 2, peers.TRIO_PARALLEL_WARM),
        ),
    ),
    Row(
        "child-to-host",
        "100 B child → host, through the public API",
        "≥ 350 000/s in batches (`receive_many`), ≥ 120 000/s with `async for`; ≥ 1 × node IPC, ≥ 2 × multiprocessing "
        "`Connection`",
        messages.child_to_host,
        (
            at_least(messages.BATCHES, 350_000),
            at_least(messages.EACH, 120_000),
            at_least_times(messages.BATCHES, 1, peers.NODE_IPC),
            at_least_times(messages.BATCHES, 2, peers.MP_CONNECTION),
        ),
    ),
    Row(
        "host-to-child",
        "100 B host → child",
        "≥ 300 000/s coalesced",
        messages.host_to_child,
        (at_least(messages.SINK, 300_000),),
    ),
    Row(
        "call",
        "warm call of 100 B, one process, one after another",
        "≥ 2 × faster than trio-parallel's warm call; ≤ 1.25 × our own bare round trip",
        calls.warm_calls,
        (
            times_faster(calls.CALL, 2, call_peers.TRIO_PARALLEL),
            at_most_times(calls.CALL, 1.25, calls.MESSAGES),
        ),
    ),
    Row(
        "call-rate",
        "calls a second, pool of 2, one in flight each",
        "≥ 1.5 × trio-parallel",
        calls.calls_a_second,
        (at_least_times(calls.POOL, 1.5, call_peers.TRIO_PARALLEL),),
    ),
    Row(
        "call-rate-waiting",
        f"the same with {calls.WAITING} under way or waiting",
        "≥ 4 × the best of the pools",
        calls.waiting_calls_a_second,
        tuple(at_least_times(calls.POOL, 4, peer) for peer in call_peers.PEERS),
    ),
    Row(
        "call-work",
        "1 000 calls of 1 ms of work, pool of 2",
        "≥ 95 % of both cores busy with work",
        calls.work,
        (at_least(calls.WORK, 95),),
    ),
    Row(
        "call-hung",
        "a hung call: from its deadline to the next call, served by the replacement",
        "≤ 15 ms at the default level",
        calls.hung_call,
        (at_most(calls.HUNG, 15),),
    ),
    Row(
        "stream",
        "stream of 100 B items",
        "≥ 0.6 × `receive_many` of messages",
        calls.streams,
        (
            at_least_times(calls.STREAM, 0.6, calls.RECEIVE_MANY),
            at_least_times(calls.STREAM_WIDE, 0.6, calls.RECEIVE_MANY),
        ),
    ),
    Row(
        "array",
        "NumPy array of 100 MB to a process and back",
        "≥ 1 × trio-parallel, ≥ 1 × multiprocessing `Pipe`",
        calls.large_array,
        (
            times_faster(calls.FUNCTIONS, 1, call_peers.TRIO_PARALLEL),
            times_faster(calls.FUNCTIONS, 1, call_peers.CONNECTION),
        ),
    ),
    Row(
        "spawn-javascript",
        "spawn → ready, JavaScript entry",
        "≤ 1.2 × node `child_process.fork`",
        javascript.spawn,
        (
            at_most_times(javascript.SPAWN, 1.2, peers.NODE_FORK),
            at_most_times(javascript.SPAWN_LEAN, 1.2, peers.NODE_FORK),
        ),
    ),
    Row(
        "round-trip-javascript",
        "100 B round trip, host ↔ JavaScript entry",
        "≤ 1 × driving Node through its own JSON channel from a Trio program",
        javascript.round_trips,
        (
            at_most_times(javascript.ROUND_TRIP, 1, javascript.CHANNEL_ROUND_TRIP_TASK),
            at_most_times(javascript.ROUND_TRIP, 1, javascript.CHANNEL_ROUND_TRIP),
        ),
    ),
    Row(
        "javascript-to-host",
        "100 B JavaScript entry → host",
        "≥ 1 × driving Node through its own JSON channel from Python",
        javascript.child_to_host,
        (
            at_least_times(javascript.BATCHES, 1, javascript.CHANNEL_RATE),
            at_least_times(javascript.BATCHES, 1, javascript.CHANNEL_RATE_BLOCKING),
        ),
    ),
    Row(
        "large-payloads",
        "payloads just under 1 MiB, either way",
        "≥ 100 MB/s; never more than 15 ms in one scheduler step, full garbage collections aside",
        messages.large_payloads,
        (
            at_least(messages.TEXT_UP, 100),
            at_least(messages.TEXT_DOWN, 100),
            # Records show their cost: each end checks 50 000 values one by one.
            *(
                at_most(messages.LONGEST_STEP + label, 15, statistic="max")
                for label in (messages.TEXT_UP, messages.TEXT_DOWN, messages.RECORDS_UP, messages.RECORDS_DOWN)
            ),
        ),
    ),
    Row(
        "heartbeat",
        "`heartbeat()`",
        "≤ 0.3 µs in the child, 0 wake-ups in the host",
        heartbeats.one_heartbeat,
        (
            at_most(heartbeats.HEARTBEAT, 0.3),
            at_most(heartbeats.HEARTBEAT_ASYNC, 0.3),
            at_most(heartbeats.WAKE_UPS, 0),
        ),
    ),
    Row(
        "watchdog",
        "watchdog lateness",
        "p99 ≤ 3 ms with the host at 90 % load",
        heartbeats.watchdog,
        (at_most(heartbeats.LATENESS, 3, statistic="p99"),),
    ),
    Row(
        "beating",
        "1 000 real children beating at 1 Hz",
        "≤ 1 % of one core in the host, ≤ 1 MiB each (blocking, lean server), 0 false kills",
        heartbeats.thousand,
        (
            at_most(heartbeats.HOST_SHARE, 1.0),
            at_most(heartbeats.CHILD_MEMORY, 1.0),
            at_most(heartbeats.FALSE_KILLS, 0),
        ),
    ),
    Row(
        "kill",
        "kill and reap 100 children",
        "≤ 40 ms",
        killing.hundred,
        (at_most(killing.KILLED_BLOCKING, 40), at_most(killing.KILLED_ASYNC, 40)),
    ),
    Row(
        "in-memory",
        "10 000 in-memory processes",
        "≤ 25 KiB each, ≥ 1/2 of the floor's spawn rate",
        in_memory.ten_thousand,
        (at_most(in_memory.MEMORY, 25), at_least_times(in_memory.RATE, 0.5, in_memory.RATE_FLOOR)),
    ),
    Row(
        "cycles",
        "10 000 cycles of spawn and end",
        "no zombie, no descriptor and at most 2 MB more in the host",
        soak.cycles,
        (at_most(soak.ZOMBIES, 0), at_most(soak.DESCRIPTORS, 0), at_most(soak.MEMORY, 2_000_000 / 2**20)),
        by_default=False,
    ),
    Row(
        "scaling-real",
        "1 … 1 000 real processes",
        "none; for the plot",
        scaling.real,
        (),
        by_default=False,
    ),
    Row(
        "scaling-memory",
        "1 … 10 000 processes in memory",
        "none; for the plot",
        scaling.in_memory,
        (),
        by_default=False,
    ),
)

BY_NAME = {row.name: row for row in ROWS}
PLOTTED = ("scaling-real", "scaling-memory")
"""Further rows to measure if plots are requested and no row is named."""
