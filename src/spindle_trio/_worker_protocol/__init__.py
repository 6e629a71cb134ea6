"""The worker protocol: a worker at one end of a channel, and its host at the other.

Theory of operation
-------------------

`serve_worker` opens a worker and does what the other end asks of it; `connect_worker` is that other end, and gives a
`Worker` that behaves like one in the host's own program. Between them is any `trio.abc.Channel`, and on it the
values of `WorkerToHost` and `HostToWorker` or their wire forms.

* *No request waits for a process.* Each end has one task that reads and one that writes. A slow request either has its
  own task (a spawn, a call; their number is bounded) or is accepted when the call returns (a stop, a send). The host
  leaves requests unread only while the other end has very many answers to take: so that end waits for itself.
* *Two lanes share the channel.* Answers and lifecycle events wait in one queue and go first. Messages are taken out of
  the processes' inboxes one at a time, when nothing else waits, so that a slow connection holds up each process by
  its own inbox and nothing else. Answers of calls and items of streams take turns with them. The connecting end has the
  same two lanes: requests, and then sends and calls.
* *Order.* A lifecycle event is queued at the transition, an answer after what it speaks of: `running` comes before the
  answer to the spawn, a terminal event before the answer to a spawn that failed. A terminal event may overtake
  messages; it then says how many are still to follow, so that the other end knows when it has them all.
* *The connecting end mirrors.* Each process has a record there, changed by its events before they are published.
* *The connection is the worker's scope.* When it ends, for whatever reason, the worker is unloaded.
"""

from __future__ import annotations

from spindle_trio._worker_protocol._client import connect_worker
from spindle_trio._worker_protocol._stream_channel import StreamChannel, WireChannel, WireMessage
from spindle_trio._worker_protocol._worker_server import serve_worker

__all__ = ["StreamChannel", "WireChannel", "WireMessage", "connect_worker", "serve_worker"]
