// The worker's end of the worker protocol, for a backend in Node or Bun whose host is in another program:
//
//     import { connectWorker } from "spindle-trio/worker.mjs";
//
//     const spindle = connectWorker(net.connect("/run/app/host.sock"));
//     const handle = await spindle.backendProcesses.spawn({ entry: "dist/indexer.js" });
//
// The host serves the other end by `Host.serve_worker`. notes/protocol.md has the messages, `worker.d.mts` the types.

import { Handlers } from "./handlers.mjs";
import { encodeJson } from "./payload.mjs";
import { report } from "./words.mjs";

/** The host's own defaults. It checks all that comes, so these only have errors tell of the place. */
const LIMITS = { frameBytes: 2 ** 24, depth: 64, values: 100_000, textBytes: null, containerEntries: null };

const NEWLINE = 10;

/** States in which a process has ended. */
const ENDED = ["stopped", "completed", "failed", "timed_out"];

/** What the host answered instead of a result. Its name is that of the host's exception, as in `DuplicateKeyError`. */
export class BackendProcessError extends Error {
  constructor({ error, errorType, type, requestId, ...facts }) {
    super(error);
    Object.assign(this, facts, { name: errorType ?? "SpindleError" });
  }
}

/** The connection was closed, or lost. */
export class ConnectionLostError extends Error {
  name = "ConnectionLostError";
}

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

  stop = (processId, options) => this.#ask("backend_process_stop", { processId, options }, () => undefined);

  /** Send a message to a process, which need not be one of this worker's handles. */
  send = (processId, payload, userId) => {
    this.#connection.send("backend_process_send", { processId, payload: payload ?? null, userId });
  };

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

  stop(options) {
    return this.#processes.stop(this.processId, options);
  }

  async refresh() {
    const info = await this.#processes.get(this.processId);
    if (info !== null) this.#info = info;
    return info;
  }

  /** Take in a lifecycle event. */
  static hear(handle, { state, at, exitReason, error }) {
    const changes = { state };
    if (state === "running") changes.readyAt = at;
    if (ENDED.includes(state)) changes.endedAt = at;
    if (exitReason !== undefined) changes.exitReason = exitReason;
    if (error !== undefined) changes.error = error;
    handle.#info = { ...handle.#info, ...changes };
  }
}

/** Lines of JSON both ways, and requests that wait for their answers. */
class Connection {
  #write;
  #end;
  #waiting = new Map(); // requests, by id
  #asked = 0;
  #lost = null; // why nothing can be sent any more

  /** Called with each message that is no answer. */
  onNotice = () => {};

  constructor(stream) {
    const { readable, writable } = isWhole(stream) ? { readable: stream, writable: stream } : stream;
    if (typeof writable.getWriter === "function") {
      const writer = writable.getWriter();
      const encoder = new TextEncoder();
      this.#write = (line) => void writer.write(encoder.encode(line)).catch((error) => this.#lose(error));
      this.#end = () => void writer.close().catch(() => {});
    } else {
      writable.on("error", (error) => this.#lose(error));
      this.#write = (line) => void writable.write(line);
      this.#end = () => void writable.end();
    }
    this.closed = this.#read(readable);
  }

  /** Send a request, and return what `make` makes of its result, before anything after the answer is read. */
  ask(type, fields, make = (result) => result) {
    this.#asked += 1;
    const requestId = `r${this.#asked}`;
    return new Promise((resolve, reject) => {
      this.send(type, { requestId, ...fields });
      this.#waiting.set(requestId, {
        reject,
        resolve: (result) => resolve(make(result)),
      });
    });
  }

  send(type, fields) {
    if (this.#lost !== null) throw this.#lost;
    this.#write(`${lineOf(type, fields)}\n`);
  }

  /** Say that no more will come. The host then unloads this worker, and closes its end. */
  close() {
    if (this.#lost !== null) return;
    this.#end();
    this.#lose(undefined, "the connection was closed here");
  }

  async #read(readable) {
    try {
      for await (const line of linesOf(readable)) {
        const message = JSON.parse(line);
        if (message.type !== "response") {
          this.onNotice(message);
          continue;
        }
        this.#answer(message);
        await new Promise(setImmediate); // whoever has asked goes on before what follows is told
      }
      this.#lose();
    } catch (error) {
      this.#lose(error);
    }
  }

  #answer(response) {
    const { requestId } = response;
    const waiting = this.#waiting.get(requestId);
    if (waiting === undefined) return;
    this.#waiting.delete(requestId);
    if (response.error !== undefined) waiting.reject(new BackendProcessError(response));
    else waiting.resolve(response.result ?? null);
  }

  #lose(cause, why = "the connection to the host is lost") {
    this.#lost ??= new ConnectionLostError(why, { cause });
    for (const { reject } of this.#waiting.values()) reject(this.#lost);
    this.#waiting.clear();
  }
}

function isWhole(stream) {
  return typeof stream.write === "function" && typeof stream[Symbol.asyncIterator] === "function";
}

async function* linesOf(readable) {
  let parts = [];
  for await (const chunk of readable) {
    let rest = Buffer.from(chunk);
    for (let end = rest.indexOf(NEWLINE); end !== -1; end = rest.indexOf(NEWLINE)) {
      yield Buffer.concat([...parts, rest.subarray(0, end)]).toString();
      parts = [];
      rest = rest.subarray(end + 1);
    }
    if (rest.length > 0) parts.push(rest);
  }
}

/** Write a message. The payload in it is checked, so that an error names the place. */
function lineOf(type, fields) {
  let text = `{"type":"${type}"`;
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) text += `,"${name}":${encodeJson(value, LIMITS, name)}`;
  }
  return `${text}}`;
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

/** Turn the strings that stand for dates and bytes into these. */
function restored(value, types = []) {
  const root = { value };
  for (const [kind, ...path] of types) {
    let container = root;
    let step = "value";
    for (const next of path) {
      if (!Object.hasOwn(container, step)) break;
      container = container[step];
      step = next;
    }
    if (!Object.hasOwn(container, step)) continue;
    const text = container[step];
    container[step] = kind === "date" ? new Date(text) : Buffer.from(text, "base64");
  }
  return root.value;
}
