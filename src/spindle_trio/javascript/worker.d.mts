// Types for `spindle-trio/worker.mjs`: the backend of an extension in Node or Bun, whose host is in another program.

import type {
  BackendProcessHandle,
  BackendProcessInfoDTO,
  BackendProcessLifecycleEventDTO,
  BackendProcessListOptionsDTO,
  BackendProcessSpawnOptionsDTO,
  BackendProcessStopOptionsDTO,
} from "./spindle-trio.js";

/** What to talk over: a Duplex, such as a socket, or two ends, of Node or of the Web. It is taken over. */
export type WorkerStream =
  | NodeDuplex
  | { readonly readable: AsyncIterable<string | Uint8Array>; readonly writable: NodeWritable | WebWritable };

/** A writable stream of Node. */
export interface NodeWritable {
  write(text: string): unknown;
  end(): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
}

/** A writable stream of the Web. */
export interface WebWritable {
  getWriter(): { write(bytes: Uint8Array): Promise<void>; close(): Promise<void> };
}

/** A stream of Node that goes both ways. */
export interface NodeDuplex extends NodeWritable, AsyncIterable<any> {}

/** A message from a process. */
export interface BackendProcessMessage {
  processId: string;
  /** JSON; a `Date` and bytes (as `Buffer`) arrive as such from a JavaScript process. */
  payload: unknown;
  userId: string;
}

/** The options of a spawn: those of the API, and what keeps a key between two processes. */
export interface SpawnOptions extends Omit<BackendProcessSpawnOptionsDTO, "entry"> {
  /** Path of the entry file, below the worker's root; or a program, if the host allows it. */
  entry: string | Command;

  /**
   * Whether the host keeps the key when the process ends by itself, for a successor; until `releaseKey` or a stop gives
   * it up. Needs a `key`.
   */
  keepKey?: boolean;

  /** The id of the ended process whose key is kept, which this one takes over; user, kind and key must be the same. */
  successorOf?: string;

  /** What the process may use, with all that it starts; what is absent is as the host has it. */
  resourceLimits?: ResourceLimits;
}

/** A program that stands where an entry stands; it takes no `payload`. The host says which ones it allows. */
export interface Command {
  /** The program, as a name on the `PATH` or a path, and its arguments. */
  argv: string[];

  /** Variables for the program, if the host allows them. */
  environment?: Record<string, string>;

  /** The working directory, below the worker's root, if the host allows one. */
  folder?: string;

  /** When it is ready; by default once it runs. `notify` is by `sd_notify`. */
  ready?:
    | { kind: "started" | "notify" }
    | { kind: "line"; pattern: string }
    | { kind: "tcp"; port: number; host?: string }
    | { kind: "http"; url: string };

  /** What its stdin and stdout carry; by default nothing. In a lane of JSON-RPC a call is a request. */
  lane?: "none" | "bytes" | "lines" | "jsonrpc" | "jsonrpc-headers";

  /** The number of the signal that asks it to stop; 15 by default. */
  stopSignal?: number;
}

/** What a process may use, together with all that it starts. What is absent is not limited. */
export interface ResourceLimits {
  /** Bytes of memory of the whole tree; over it, the tree is killed. */
  memory?: number;

  /** Processes and threads of the whole tree. */
  pids?: number;

  /** Processors that the whole tree may keep busy, as in 0.5. */
  cpus?: number;

  /** Milliseconds of processor time. */
  cpuMs?: number;

  /** Descriptors that each process may have open. */
  openFiles?: number;

  /** Bytes that a file may have that one of its processes writes. */
  fileBytes?: number;

  /** Milliseconds that it may run, from ready on. */
  runMs?: number;
}

/** What a process uses, together with all that it has started; what is absent is unknown. */
export interface Usage {
  /** Bytes of memory. */
  memory?: number;

  /** Processes, and threads where a control group counts them. */
  pids?: number;

  /** Milliseconds of processor time until now. */
  processorMs?: number;
}

/** The options of a stop: those of the API, and what becomes of the key. */
export interface StopOptions extends BackendProcessStopOptionsDTO {
  /** Whether the key stays kept for a successor all the same, if the spawn had `keepKey`. */
  keepKey?: boolean;
}

/** How to call. */
export interface CallOptions {
  /** Milliseconds until the call is cancelled; `Infinity` for no bound. */
  timeoutMs?: number;

  /** What becomes of a process whose handler goes on after its call was cancelled; `"leave"` by default. */
  overrun?: "leave" | "kill";

  /** Cancels the call when it aborts. */
  signal?: AbortSignal;
}

/** How to read a stream. */
export interface StreamOptions extends CallOptions {
  /** How many items may be under way, from 1 to 65 536; 16 by default. A slow reader holds up the generator. */
  window?: number;
}

/** A snapshot of a process: that of the API, and what is known besides. */
export interface ProcessInfo extends BackendProcessInfoDTO {
  /** What a command said last that it is doing; it makes no event, so it is as of the last `refresh`. */
  status?: string;

  /** The most bytes of memory that it used, with all that it had started; set at the end. */
  peakMemory?: number;

  /** Milliseconds of processor time that it used, with all that it had started; set at the end. */
  processorMs?: number;
}

/** This worker's handle on one process. */
export interface WorkerProcessHandle extends BackendProcessHandle {
  readonly info: ProcessInfo;
  refresh(): Promise<ProcessInfo | null>;

  /** Call a handler in the process; see `BackendProcesses.call`. */
  call(method: string, payload?: unknown, options?: CallOptions): Promise<unknown>;

  /** Read what a generator in the process yields; see `BackendProcesses.stream`. */
  stream(method: string, payload?: unknown, options?: StreamOptions): AsyncGenerator<unknown, void, undefined>;

  /** Ask what the process uses now; see `BackendProcesses.usage`. */
  usage(): Promise<Usage>;

  /** Ask the process to end; see `BackendProcesses.stop`. */
  stop(options?: StopOptions): Promise<void>;
}

/** The processes of this worker: as in the API, and calls besides. */
export interface BackendProcesses {
  /**
   * Start a process, and wait until its entry has called `ready`.
   * @throws BackendProcessError if it is refused or does not become ready; PayloadError for options that are no JSON
   */
  spawn(options: SpawnOptions): Promise<WorkerProcessHandle>;

  /** List the live processes that match all that is given, oldest first. */
  list(filter?: BackendProcessListOptionsDTO): Promise<ProcessInfo[]>;

  /** Get a live process by its id; `null` if there is none. */
  get(processId: string): Promise<ProcessInfo | null>;

  /**
   * Ask what a process uses now, together with all that it has started.
   * @throws BackendProcessError by the name of `BrokenResourceError` if it has ended
   */
  usage(processId: string): Promise<Usage>;

  /**
   * Ask a process to end. This is answered at once; the terminal event says that the process is gone. If it has ended
   * and its key is kept, the key is given up.
   */
  stop(processId: string, options?: StopOptions): Promise<void>;

  /** Give up the key that is kept of an ended process; does nothing if none is. */
  releaseKey(processId: string, userId?: string): Promise<void>;

  /**
   * Send a message to a process. Never waits. If the host cannot deliver it, that is reported on stderr.
   * @throws PayloadError for what is no JSON, ConnectionLostError once the connection is lost
   */
  send(processId: string, payload: unknown, userId?: string): void;

  /**
   * Call a handler in a process, and return its answer. It is sent once: nothing repeats it. A call that is cancelled,
   * by its time or its signal, rejects at once.
   *
   * @throws BackendProcessError by the name of `CallFailedError`, `UnknownMethodError`, `CallTimeoutError`,
   * `ProcessLostError` or `CallError`; PayloadError for a payload that is no JSON; the reason of the signal
   */
  call(processId: string, method: string, payload?: unknown, options?: CallOptions): Promise<unknown>;

  /**
   * Read what a generator in a process yields: `for await (const item of stream(...))`. It begins with the first item
   * that is asked for, and leaving the loop cancels it. Its error is thrown after the items before it.
   */
  stream(
    processId: string,
    method: string,
    payload?: unknown,
    options?: StreamOptions,
  ): AsyncGenerator<unknown, void, undefined>;

  /**
   * Register a function to call with each transition of a process.
   * @returns a function that unregisters it
   */
  onLifecycle(handler: (event: BackendProcessLifecycleEventDTO) => void): () => void;

  /**
   * Register a function to call with each message of a process. Messages that come before there is one are lost.
   * @returns a function that unregisters it
   */
  onMessage(handler: (event: BackendProcessMessage) => void): () => void;
}

/** A worker whose host is at the other end of a stream. */
export interface Worker {
  readonly backendProcesses: BackendProcesses;

  /** Resolves when the host has closed the connection, or it is lost; never rejects. */
  readonly closed: Promise<void>;

  /** Close this end: the host ends this worker's processes, with their grace periods, and then closes its end. */
  close(): void;
}

/**
 * Be the worker of a host at the other end of a stream. Losing the connection ends the worker's processes.
 *
 * Requests that wait when it is lost reject with a ConnectionLostError, and so do later ones.
 */
export function connectWorker(stream: WorkerStream): Worker;

/** What the host answered instead of a result. */
export class BackendProcessError extends Error {
  /** The name of the host's exception: `DuplicateKeyError`, `EntryError`, `StartupFailedError` ... */
  name: string;
  /** The process that it is about, if it is about one. */
  info?: BackendProcessInfoDTO;
  /** The limit that was reached, of a `ProcessLimitError` or `PayloadError`. */
  limit?: number;
  /** The size of a payload that was too large. */
  size?: number;
  /** What a process completed with that did so before it was ready. */
  result?: unknown;
  /** What the handler threw, of a `CallFailedError`; `code` and `data` of one that a JSON-RPC server answered with. */
  failure?: { errorType: string; text: string; traceback?: string; code?: number; data?: unknown };
  /** The methods that there are, of an `UnknownMethodError`. */
  known?: string[];
  /** Whether the handler may have begun, of a `ProcessLostError`. */
  handedOver?: boolean;
  /** How the process has ended, of a `ProcessLostError`. */
  postMortem?: { error: string; exitStatus?: string; stderr?: string; traceback?: string; stacks?: string };
}

/** The connection was closed, or lost. */
export class ConnectionLostError extends Error {
  name: "ConnectionLostError";
}
