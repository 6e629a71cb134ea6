// Calls and streams of a worker. Whoever gives up goes on at once: the host is told, and drops what still comes.

import { BackendProcessError } from "./worker_connection.mjs";

/** How many items of a stream may be under way, by default. */
const WINDOW = 16;

/** The longest time that a timer takes. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Call a handler of a process, and return its answer. */
export function callOnce(connection, processId, method, payload, options) {
  return new Promise((resolve, reject) => {
    begin(connection, { processId, method, payload: payload ?? null }, options, { resolve, reject });
  });
}

/** Read what a generator in a process yields. It begins with the first item that is asked for. */
export async function* readStream(connection, processId, method, payload, { window = WINDOW, ...options } = {}) {
  const arrived = [];
  let hasEnded = false;
  let error; // by which it has ended, if any
  let wake = () => {};
  let taken = 0; // since credit was given
  const end = (reason) => {
    hasEnded = true;
    error = reason;
    wake();
  };
  const { requestId, giveUp } = begin(connection, { processId, method, payload: payload ?? null, window }, options, {
    resolve: () => end(),
    reject: end,
    take(item) {
      arrived.push(item);
      wake();
    },
  });
  try {
    for (;;) {
      while (arrived.length === 0 && !hasEnded) {
        await new Promise((go) => {
          wake = go;
        });
      }
      if (arrived.length === 0) break;
      const item = arrived.shift();
      taken += 1;
      if (taken * 3 >= window && !hasEnded) {
        connection.send("backend_process_call_credit", { requestId, items: taken });
        taken = 0;
      }
      yield item;
    }
    if (error !== undefined) throw error;
  } finally {
    giveUp();
  }
}

/** Begin a call, which is cancelled when its time is over or its signal aborts. */
function begin(connection, call, { timeoutMs = Infinity, overrun, signal } = {}, waiting) {
  signal?.throwIfAborted();
  const travels = Number.isFinite(timeoutMs) ? Math.ceil(timeoutMs) : undefined;
  let timer;
  const settled = () => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  };
  const requestId = connection.begin(
    "backend_process_call",
    { ...call, timeoutMs: travels, overrun },
    {
      take: waiting.take,
      resolve(result) {
        settled();
        waiting.resolve(result);
      },
      reject(error) {
        settled();
        waiting.reject(error);
      },
    },
  );
  const giveUp = (reason) => {
    settled();
    if (!connection.forget(requestId)) return; // it has ended
    connection.send("backend_process_call_cancel", { requestId });
    waiting.reject(reason);
  };
  const abort = () => giveUp(signal.reason);
  signal?.addEventListener("abort", abort);
  if (timeoutMs <= LONGEST_TIMER_MS) timer = setTimeout(() => giveUp(tooLate(call, timeoutMs)), timeoutMs);
  return { requestId, giveUp };
}

function tooLate({ processId, method }, timeoutMs) {
  const error = `${JSON.stringify(method)} was not answered by process ${processId} within ${timeoutMs} ms`;
  return new BackendProcessError({ error: `${error}, and was cancelled`, errorType: "CallTimeoutError" });
}
