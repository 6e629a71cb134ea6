// The worker's end of the worker protocol, for a backend in Node or Bun whose host is in another program:
//
//     import { connectWorker } from "spindle-trio/worker.mjs";
//
//     const spindle = connectWorker(net.connect("/run/app/host.sock"));
//     const handle = await spindle.backendProcesses.spawn({ entry: "dist/indexer.js" });
//
// The host serves the other end by `Host.serve_worker`. notes/protocol.md has the messages, `worker.d.mts` the types.

import { Handlers } from "./handlers.mjs";
import { report } from "./words.mjs";
import { callOnce, readStream } from "./worker_calls.mjs";
import { BackendProcessError, Connection, restored } from "./worker_connection.mjs";

export { BackendProcessError, ConnectionLostError } from "./worker_connection.mjs";

/** States in which a process has ended. */
const ENDED = ["stopped", "completed", "failed", "timed_out"];

/**
 * Be the worker of a host at the other end of a stream.
 * @param stream a Duplex, such as a socket; or `{ readable, writable }`, of Node or of the Web
 */
export function connectWorker(stream) {
  const connection = new Connection(stream);
  const { closed } = connection;
  return { backendProcesses: new BackendProcesses(connection), closed, close: () => connection.close() };
}

class BackendProcesses {
  #connection;
  #handles = new Map(); // of live processes, by id
  #lifecycleHandlers = new Handlers((error) => report("a lifecycle handler threw", error));
  #messageHandlers = new Handlers((error) => report("a message handler threw", error));

  constructor(connection) {
    this.#connection = connection;
    connection.onNotice = (notice) => this.#hear(notice);
  }

  spawn = (options) =>
    this.#ask("backend_process_spawn", { options: withFiniteTimes(options) }, (info) => {
      const handle = new BackendProcessHandle(this, info);
      this.#handles.set(info.processId, handle);
      return handle;
    });

  list = (filter) => this.#ask("backend_process_list", { filter });

  get = (processId) => this.#ask("backend_process_get", { processId });

  usage = (processId) => this.#ask("backend_process_usage", { processId });

  stop = (processId, options) => this.#ask("backend_process_stop", { processId, options }, () => undefined);

  releaseKey = (processId, userId) =>
    this.#ask("backend_process_release_key", { processId, userId }, () => undefined);

  /** Send a message to a process, which need not be one of this worker's handles. */
  send = (processId, payload, userId) => {
    this.#connection.send("backend_process_send", { processId, payload: payload ?? null, userId });
  };

  call = async (...call) => callOnce(this.#connection, ...call);

  stream = (...call) => readStream(this.#connection, ...call);

  onLifecycle = (handler) => this.#lifecycleHandlers.add(handler);

  onMessage = (handler) => this.#messageHandlers.add(handler);

  async #ask(type, fields, make) {
    return this.#connection.ask(type, fields, make);
  }

  #hear(notice) {
    switch (notice.type) {
      case "backend_process_lifecycle":
        this.#hearEvent(notice.event);
        break;
      case "backend_process_message": {
        const { processId, payload, userId, payloadTypes } = notice;
        this.#messageHandlers.tell({ processId, payload: restored(payload, payloadTypes), userId });
        break;
      }
      case "backend_process_send_failed":
        report(`a message did not reach process ${notice.processId}`, new BackendProcessError(notice));
        break;
      default: // of a later version
    }
  }

  #hearEvent({ resultTypes, ...event }) {
    if ("result" in event) event.result = restored(event.result, resultTypes);
    const handle = this.#handles.get(event.processId);
    if (handle !== undefined) BackendProcessHandle.hear(handle, event);
    if (ENDED.includes(event.state)) this.#handles.delete(event.processId);
    this.#lifecycleHandlers.tell(event);
  }
}

class BackendProcessHandle {
  #processes;
  #info;

  constructor(processes, info) {
    this.#processes = processes;
    this.#info = info;
    const { processId, entry, kind, key } = info;
    Object.assign(this, { processId, entry, kind }, key === undefined ? {} : { key });
  }

  /** The latest snapshot that this side knows. */
  get info() {
    return this.#info;
  }

  send(payload) {
    this.#processes.send(this.processId, payload);
  }

  call(method, payload, options) {
    return this.#processes.call(this.processId, method, payload, options);
  }

  stream(method, payload, options) {
    return this.#processes.stream(this.processId, method, payload, options);
  }

  usage() {
    return this.#processes.usage(this.processId);
  }

  stop(options) {
    return this.#processes.stop(this.processId, options);
  }

  async refresh() {
    const info = await this.#processes.get(this.processId);
    if (info !== null) this.#info = info;
    return info;
  }

  /** Take in a lifecycle event. */
  static hear(handle, { state, at, exitReason, error, peakMemory, processorMs }) {
    const changes = { state };
    if (state === "running") changes.readyAt = at;
    if (ENDED.includes(state)) changes.endedAt = at;
    if (exitReason !== undefined) changes.exitReason = exitReason;
    if (error !== undefined) changes.error = error;
    if (peakMemory !== undefined) changes.peakMemory = peakMemory;
    if (processorMs !== undefined) changes.processorMs = processorMs;
    handle.#info = { ...handle.#info, ...changes };
  }
}

/** JSON has no numbers that are not finite. No watchdog is 0 there; any other such number means the default. */
function withFiniteTimes(options) {
  const changed = { ...options };
  for (const name of ["startupTimeoutMs", "heartbeatTimeoutMs"]) {
    if (typeof changed[name] === "number" && !Number.isFinite(changed[name])) {
      changed[name] = name === "heartbeatTimeoutMs" && changed[name] === Infinity ? 0 : undefined;
    }
  }
  return changed;
}
