// An entry that was written against the API's own type package; nothing but the import is ours.
import type {
  BackendProcessExitReasonDTO,
  BackendProcessHandle,
  BackendProcessInfoDTO,
  BackendProcessLifecycleEventDTO,
  BackendProcessListOptionsDTO,
  BackendProcessSpawnOptionsDTO,
  BackendProcessStateDTO,
  BackendProcessStopOptionsDTO,
  EntryFunction,
  ProcessContext,
  SpindleBackendProcessContext,
  SpindleBackendProcessModule,
} from "./spindle-trio.js";

interface Job {
  id: number;
  run(): Promise<Map<string, bigint>>;
}

type Request = { type: "job"; job: Job } | { type: "ping" };

class Runner {
  private readonly jobs = new Map<number, Job>();

  constructor(private readonly process: SpindleBackendProcessContext) {}

  start(): () => void {
    const { process } = this;
    const options = process.payload as { least?: number } | undefined;
    process.onMessage((payload) => this.hear(payload as Request));
    process.onMessage((payload: unknown) => process.send({ echo: payload, when: new Date(), least: options?.least }));
    process.onStop((detail) => process.fail(detail.reason ?? "stopped"));
    process.ready();
    const timer = setInterval(() => process.heartbeat(), 1000);
    return () => clearInterval(timer);
  }

  private hear(request: Request): void {
    if (request.type === "ping") this.process.send("pong");
    else this.jobs.set(request.job.id, request.job);
  }
}

export default function main(process: SpindleBackendProcessContext): () => void {
  if (process.key === undefined && process.userId === undefined && process.metadata === undefined) process.complete();
  return new Runner(process).start();
}

export const run = async (process: SpindleBackendProcessContext): Promise<void> => {
  const unknown: unknown = JSON.parse("{}");
  process.send(unknown);
  process.complete(unknown);
};

// What is written for the API is an entry here, and a context here is one for the API.
export const module: SpindleBackendProcessModule = { default: main, run };
export const entries: EntryFunction<unknown>[] = [main, run];
export const narrower: EntryFunction = main;
export const loosened = (process: ProcessContext): SpindleBackendProcessContext => process;

export function describe(
  handle: BackendProcessHandle,
  options: BackendProcessSpawnOptionsDTO & BackendProcessListOptionsDTO & BackendProcessStopOptionsDTO,
  event: BackendProcessLifecycleEventDTO,
): [BackendProcessInfoDTO, BackendProcessStateDTO | undefined, BackendProcessExitReasonDTO | undefined, string] {
  return [handle.info, event.previousState, event.exitReason, options.reason ?? options.entry];
}
