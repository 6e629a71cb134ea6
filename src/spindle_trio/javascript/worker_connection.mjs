// The connection of a worker: lines of JSON both ways, and requests that wait for their answers.

import { encodeJson } from "./payload.mjs";

/** The host's own defaults. It checks all that comes, so these only have errors tell of the place. */
const LIMITS = { frameBytes: 2 ** 24, depth: 64, values: 100_000, textBytes: null, containerEntries: null };

const NEWLINE = 10;

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

export class Connection {
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
    return new Promise((resolve, reject) => {
      this.begin(type, fields, { reject, resolve: (result) => resolve(make(result)) });
    });
  }

  /**
   * Send a request, and return its id.
   * @param waiting `resolve` and `reject`, one of which is called, and `take`, which is called with each item before
   */
  begin(type, fields, waiting) {
    this.#asked += 1;
    const requestId = `r${this.#asked}`;
    this.send(type, { requestId, ...fields });
    this.#waiting.set(requestId, waiting);
    return requestId;
  }

  /** Drop whatever is still said of a request; tell whether it was still waiting. */
  forget(requestId) {
    return this.#waiting.delete(requestId);
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
        if (message.type === "backend_process_call_item") {
          this.#waiting.get(message.requestId)?.take?.(restored(message.value, message.valueTypes));
        } else if (message.type !== "response") {
          this.onNotice(message);
        } else {
          this.#answer(message);
          await new Promise(setImmediate); // whoever has asked goes on before what follows is told
        }
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
    else waiting.resolve(restored(response.result ?? null, response.resultTypes));
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

/** Turn the strings that stand for dates and bytes into these. */
export function restored(value, types = []) {
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
