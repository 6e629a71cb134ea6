// The backend of an extension, written against the API's `spindle.backendProcesses`.
import type {
  BackendProcessHandle,
  BackendProcessInfoDTO,
  BackendProcessLifecycleEventDTO,
  BackendProcessListOptionsDTO,
  BackendProcessSpawnOptionsDTO,
  BackendProcessStopOptionsDTO,
} from "./spindle-trio.js";
import { BackendProcessError, connectWorker, type WorkerStream } from "./worker.mjs";

/** As the API has it. */
interface SpindleAPI {
  backendProcesses: {
    spawn(options: BackendProcessSpawnOptionsDTO): Promise<BackendProcessHandle>;
    list(filter?: BackendProcessListOptionsDTO): Promise<BackendProcessInfoDTO[]>;
    get(processId: string): Promise<BackendProcessInfoDTO | null>;
    stop(processId: string, options?: BackendProcessStopOptionsDTO): Promise<void>;
    onLifecycle(handler: (event: BackendProcessLifecycleEventDTO) => void): () => void;
    onMessage(handler: (event: { processId: string; payload: unknown; userId: string }) => void): () => void;
  };
}

declare const stream: WorkerStream;
const worker = connectWorker(stream);
const spindle: SpindleAPI = worker;

const off = spindle.backendProcesses.onMessage(({ processId, payload, userId }) => {
  worker.backendProcesses.send(processId, { echo: payload }, userId);
});

export async function ask(signal: AbortSignal): Promise<unknown[]> {
  const tools = await worker.backendProcesses.spawn({ entry: "tools.js" });
  const answers: unknown[] = [await tools.call("square", { n: 3 }, { timeoutMs: 2000, overrun: "kill", signal })];
  for await (const item of tools.stream("count", { to: 3 }, { window: 4 })) answers.push(item);
  answers.push(await worker.backendProcesses.call(tools.processId, "now"));
  // @ts-expect-error a word that nobody knows
  await tools.call("square", null, { overrun: "wait" });
  const ready = { kind: "tcp", port: 5432 } as const;
  const server = await worker.backendProcesses.spawn({ entry: { argv: ["server", "-v"], ready, lane: "jsonrpc" } });
  answers.push((await server.refresh())?.status, server.info.peakMemory);
  // @ts-expect-error a lane that there is not
  await worker.backendProcesses.spawn({ entry: { argv: ["server"], lane: "json" } });
  return answers;
}

export async function startAgain(processId: string): Promise<void> {
  const { spawn, releaseKey } = worker.backendProcesses;
  const next = await spawn({ entry: "db.js", key: "db", keepKey: true, successorOf: processId });
  await next.stop({ keepKey: true });
  await releaseKey(next.processId, "ada");
  // @ts-expect-error a word, and no flag
  await spawn({ entry: "db.js", key: "db", keepKey: "yes" });
}

export async function run(): Promise<string> {
  try {
    const handle = await spindle.backendProcesses.spawn({ entry: "dist/indexer.js", payload: { chat: 42 } });
    handle.send({ type: "start" });
    await handle.stop({ reason: "enough" });
    return handle.info.state;
  } catch (error) {
    if (error instanceof BackendProcessError) return `${error.name}: ${error.info?.state ?? error.limit}`;
    throw error;
  } finally {
    off();
    worker.close();
    await worker.closed;
  }
}
