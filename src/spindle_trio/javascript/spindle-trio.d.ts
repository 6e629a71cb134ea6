// Types for JavaScript entries of spindle_trio. `spindle-trio types FILE` puts a copy beside an entry:
//
//     // @ts-check
//     /** @type {import("./spindle-trio").EntryFunction} */
//     export default function run(process) { ... }
//
// or, in TypeScript that is compiled to JavaScript before it is run:
//
//     import type { EntryFunction } from "./spindle-trio";
//
// Entries import nothing at run time: the runtime makes the context, and this file has no code.

/**
 * What travels in messages, payloads and results: what JSON can write.
 *
 * Numbers are doubles. An integer beyond 2^53 that a Python program sends arrives rounded; have it send a string.
 */
export type JsonValue = null | boolean | number | string | JsonValue[] | { [name: string]: JsonValue };

/**
 * The type of a value that can be sent. For any other value, the part that cannot be sent is `never`.
 *
 * Besides JSON, a `Date` can be sent, which Python reads as a `datetime`, and bytes (`Buffer`, `ArrayBuffer`, typed
 * arrays, `DataView`), which Python reads as `bytes`. A property that is `undefined` is left out; an array item that is
 * `undefined` arrives as null.
 */
export type JsonSafe<Value> = 0 extends 1 & Value
  ? Value // `any`, which may be anything
  : Value extends NotData
    ? never
    : Value extends JsonValue | Date | ArrayBuffer | ArrayBufferView
      ? Value
      : Value extends readonly unknown[]
        ? { [Index in keyof Value]: JsonSafe<Exclude<Value[Index], undefined>> | Extract<Value[Index], undefined> }
        : Value extends object
          ? { [Name in keyof Value]: JsonSafe<Exclude<Value[Name], undefined>> | Extract<Value[Name], undefined> }
          : never;

/** Objects that JSON would change or leave out. */
type NotData =
  | ((...args: never[]) => unknown)
  | (abstract new (...args: never[]) => unknown)
  | RegExp
  | Error
  | PromiseLike<unknown>
  | ReadonlyMap<unknown, unknown>
  | ReadonlySet<unknown>
  | WeakMap<object, unknown>
  | WeakSet<object>;

/** What a stop handler gets. */
export interface StopNotice {
  /** The reason that the caller of `stop` gave; `undefined` if none. */
  readonly reason?: string;
}

/**
 * Thrown by `send` and `complete` for a value that cannot be sent; nothing is sent then. A value that is not
 * JSON, such as a `Map` or an object that contains itself, also fails the process, even if the error is caught. After a
 * value over one of the host's limits, the process goes on. The class cannot be imported; recognise it by
 * `error instanceof TypeError && error.name === "PayloadError"`.
 */
export interface PayloadError extends TypeError {
  readonly name: "PayloadError";
  /** Names the place, as in `payload.items[3]: Set is not JSON-safe`. */
  readonly message: string;
}

/**
 * Answers calls of a method. Its promise, if it returns one, is awaited.
 *
 * What it returns is the answer, and can be what `send` takes; `undefined` is sent as null. A generator, sync or async,
 * is a stream: each value that it yields is an item, and it goes on as the reader takes them. Any other async iterable
 * is one as well. What it throws is raised at the caller, and the process goes on; the same holds for the PayloadError
 * of a value that cannot be sent.
 *
 * `call` is the same as `process.call` inside of it.
 */
export type CallHandler<Payload = JsonValue> = (payload: Payload, call: Call) => unknown;

/**
 * What a module may export as `calls` instead of a function: handlers by the names of their methods. Such a module is
 * ready when it has loaded. In TypeScript: `export const calls = { ... } satisfies CallHandlers;`
 */
export type CallHandlers = { readonly [method: string]: CallHandler<any> };

/** A call, as its handler sees it. */
export interface Call {
  /** The name that was called. */
  readonly method: string;

  /** When its time is over: milliseconds on the clock of `performance.now()`; `Infinity` for never. */
  readonly deadline: number;

  /**
   * Whether the caller has given up, or the time is over: nobody waits for the answer any more. Code that computes
   * without a pause learns only of the time, since the caller's word has to be read by the event loop.
   */
  readonly isCancelled: boolean;

  /** Aborts when the call is cancelled: for `fetch(url, { signal })` and the like. */
  readonly signal: AbortSignal;

  /**
   * Do nothing, unless the call was cancelled.
   * @throws an AbortError if it was; let it through
   */
  readonly check: () => void;
}

/** Runs once before the process ends. The host waits for it for the grace period: 5 seconds by default. */
export type CleanUpFunction = () => void | PromiseLike<void>;

/**
 * What an entry exports, as `default` or as `run`; in a CommonJS module, as `module.exports` or as a property of it. A
 * module that only answers calls may export `calls` instead (see `CallHandlers`).
 *
 * The process lives on after the function has returned, until it calls `complete` or `fail`, is told to stop, or does
 * not catch an error. If the function returns a function, or a promise of one, that is its clean-up function. After
 * `ready` any other value is ignored: give a result to `complete`. Before `ready`, another value ends the process if no
 * handler and nothing else is left that could still make it ready; its spawn then fails, with that value. If the
 * function throws, or returns a promise that rejects, the process fails.
 */
export type EntryFunction<Payload = JsonValue | undefined> = (
  process: ProcessContext<Payload>,
) => void | CleanUpFunction | PromiseLike<void | CleanUpFunction>;

/**
 * An entry's control over its own process. Its functions need no `this`: `const { ready, send } = process` works.
 *
 * `Payload` is the type of payload that the entry expects; it is not checked at run time.
 */
export interface ProcessContext<Payload = JsonValue | undefined> {
  /** The host's id for this process: unique within the host. */
  readonly processId: string;

  /** The path of the file that runs, below the worker's root, as in `dist/indexer.js`. */
  readonly entry: string;

  /** The label of this process: the entry, unless the spawn gave another. */
  readonly kind: string;

  /** The key, unique within worker, user and kind. The property is absent if the spawn gave none. */
  readonly key?: string;

  /** The payload of the spawn. The property is absent if the spawn gave none, which is not the same as null. */
  readonly payload: Payload;

  /** The metadata of the spawn. The property is absent if it gave none. */
  readonly metadata?: { readonly [name: string]: JsonValue };

  /** The owner of this process. The property is absent if it has none. */
  readonly userId?: string;

  /**
   * How many milliseconds may pass between two heartbeats; `Infinity` for no watchdog. Beat twice as often:
   * `setInterval(() => process.heartbeat(), process.heartbeatTimeoutMs / 2)`. (Node takes `Infinity` for 1 ms.)
   *
   * The property is not enumerable.
   */
  readonly heartbeatTimeoutMs: number;

  /** Say that the start has succeeded. The host waits 15 seconds for that by default. Counts once. */
  readonly ready: () => void;

  /**
   * Say that this process is alive. After `ready` the host kills it after `heartbeatTimeoutMs` without a heartbeat;
   * messages do not count. A call costs a few microseconds. A timer that beats only shows that the event loop runs.
   */
  readonly heartbeat: () => void;

  /**
   * Send a message to the spawner. Never waits: what the system does not take at once stays in this
   * process's memory, in order, and is sent before the process ends.
   *
   * After `complete` and `fail` nothing is sent, except by the clean-up function and listeners for the exit.
   *
   * @param payload a value that can be sent (see `JsonSafe`), of 16 MiB at most, unless the host has another limit
   * @throws PayloadError if it cannot be sent; see there
   */
  readonly send: <Value>(payload: Value & JsonSafe<Value>) => void;

  /**
   * Register a function to call with each message, in order. Messages wait until there is one.
   *
   * If it throws, that is reported on stderr, and the others still run. If it returns a promise, nobody waits for it;
   * if the promise rejects, the process fails. A function that is registered twice is called once for a message.
   *
   * @returns a function that unregisters it
   */
  readonly onMessage: (handler: (payload: JsonValue) => void) => () => void;

  /**
   * End this process as completed; the call returns, and the clean-up function still runs. The first of `complete` and
   * `fail` counts.
   *
   * @param result a value that can be sent (see `JsonSafe`); `null` by default
   * @throws PayloadError if it cannot be sent; see there
   */
  readonly complete: <Value>(result?: Value & JsonSafe<Value>) => void;

  /**
   * End this process as failed; the call returns, and the clean-up function still runs. The first of `complete` and
   * `fail` counts.
   *
   * @param error what went wrong: a string, or an Error, whose stack the host gets as well
   */
  readonly fail: (error: unknown) => void;

  /**
   * Register a function that answers the calls of a method: `onCall("square", ({ n }) => n * n)`, or `onCall(square)`
   * for a function with a name. See `CallHandler` for what it may return.
   *
   * Calls begin in order; 16 may run at once (see `limitCalls`). While there is a handler, the runtime beats by itself,
   * from the event loop. A call that is cancelled goes on until its handler gives up (see `call`); a generator is
   * closed by `return()` once it does not run. When the process is asked to stop, no more calls begin, and those that
   * run may finish. `complete` and `fail` cancel them.
   *
   * The property is not enumerable.
   *
   * @returns a function that unregisters it
   * @throws TypeError for what is no function or has no name, Error if the method has a handler already
   */
  readonly onCall: <Payload = any>(
    ...registration: [method: string, handler: CallHandler<Payload>] | [handler: CallHandler<Payload>]
  ) => () => void;

  /**
   * Set how many calls may run at once; 16 by default. The property is not enumerable.
   *
   * @param concurrency an integer of 1 or more
   */
  readonly limitCalls: (concurrency: number) => void;

  /**
   * The call that this code runs in, also after an `await`. Outside of a handler, reading it throws an Error.
   *
   * The property is not enumerable.
   */
  readonly call: Call;

  /**
   * Register a function to call when the host asks this process to stop. The process must then end by itself
   * (`complete`, `fail` or Node's `process.exit`) within the grace period, or the host kills it. Without such a
   * function the process ends at once, after its clean-up function.
   *
   * @returns a function that unregisters it
   */
  readonly onStop: (handler: (notice: StopNotice) => void) => () => void;
}

// ---- The names of the API's own type package, for entries that are written against it:
//
//     import type { SpindleBackendProcessContext } from "./spindle-trio";
//
// They are looser than the names above: a value to send is `unknown`, and `send` checks it.
// A `ProcessContext` is a `SpindleBackendProcessContext`, and each `SpindleBackendProcessModule` can be spawned.

/** An entry's control over its own process, as in the API; see `ProcessContext` for what each member does. */
export interface SpindleBackendProcessContext {
  processId: string;
  entry: string;
  kind: string;
  key?: string;
  payload: unknown;
  metadata?: Record<string, unknown>;
  userId?: string;
  ready(): void;
  heartbeat(): void;
  send(payload: unknown): void;
  onMessage(handler: (payload: unknown) => void): () => void;
  complete(result?: unknown): void;
  fail(error: string): void;
  onStop(handler: (detail: { reason?: string }) => void): () => void;
}

/** What an entry module exports, as in the API: `default` is called if it is a function, else `run`. */
export type SpindleBackendProcessModule = {
  default?: (process: SpindleBackendProcessContext) => void | (() => void) | Promise<void | (() => void)>;
  run?: (process: SpindleBackendProcessContext) => void | (() => void) | Promise<void | (() => void)>;
};

/** The state of a process. */
export type BackendProcessStateDTO =
  | "starting"
  | "running"
  | "stopping"
  | "stopped"
  | "completed"
  | "failed"
  | "timed_out";

/** Why a process has ended. */
export type BackendProcessExitReasonDTO =
  | "completed"
  | "failed"
  | "stopped"
  | "timed_out"
  | "backend_unloaded"
  | "replaced";

/** The options of a spawn, as they travel. */
export interface BackendProcessSpawnOptionsDTO {
  entry: string;
  kind?: string;
  key?: string;
  payload?: unknown;
  metadata?: Record<string, unknown>;
  userId?: string;
  startupTimeoutMs?: number;
  heartbeatTimeoutMs?: number;
  replaceExisting?: boolean;
}

/** The filter of a list. */
export interface BackendProcessListOptionsDTO {
  userId?: string;
  kind?: string;
  key?: string;
  state?: BackendProcessStateDTO;
}

/** The options of a stop. */
export interface BackendProcessStopOptionsDTO {
  userId?: string;
  reason?: string;
}

/** A snapshot of a process, as it travels. */
export interface BackendProcessInfoDTO {
  processId: string;
  entry: string;
  kind: string;
  key?: string;
  state: BackendProcessStateDTO;
  userId?: string;
  metadata?: Record<string, unknown>;
  startedAt: string;
  readyAt?: string;
  lastHeartbeatAt?: string;
  endedAt?: string;
  exitReason?: BackendProcessExitReasonDTO;
  error?: string;
}

/** One transition of a process, as it travels. */
export interface BackendProcessLifecycleEventDTO {
  processId: string;
  entry: string;
  kind: string;
  key?: string;
  userId?: string;
  state: BackendProcessStateDTO;
  previousState?: BackendProcessStateDTO;
  at: string;
  exitReason?: BackendProcessExitReasonDTO;
  error?: string;
  metadata?: Record<string, unknown>;
}

/** A worker's handle on one process, for code that is shared with a worker. An entry has none. */
export interface BackendProcessHandle {
  readonly processId: string;
  readonly entry: string;
  readonly kind: string;
  readonly key?: string;
  readonly info: BackendProcessInfoDTO;
  send(payload: unknown): void;
  stop(options?: BackendProcessStopOptionsDTO): Promise<void>;
  refresh(): Promise<BackendProcessInfoDTO | null>;
}
