// Handlers of calls: which types their parameters have, with and without annotations.
import type { Call, CallHandlers, EntryFunction, ProcessContext } from "./spindle-trio.js";

export default function run(process: ProcessContext): void {
  process.onCall("square", ({ n }) => n * n);
  const takeBack: () => void = process.onCall("typed", async ({ text }: { text: string }, { signal }) => {
    const stopped: boolean = signal.aborted;
    return [text.length, stopped];
  });
  process.onCall(function named(payload: { folder: string }, call: Call) {
    call.check();
    return payload.folder;
  });
  process.onCall("count", function* ({ to }: { to: number }) {
    for (let n = 0; n < to && !process.call.isCancelled; n += 1) yield n;
  });
  process.onCall("slowly", async function* () {
    yield process.call.deadline;
  });
  // @ts-expect-error a name alone answers nothing
  process.onCall("nothing");
  // @ts-expect-error nor does a string
  process.onCall("text", "text");
  process.limitCalls(4);
  takeBack();
}

export const entry: EntryFunction = run;

export const calls = {
  square: ({ n }: { n: number }) => n * n,
  async *words({ text }: { text: string }, call: Call) {
    for (const word of text.split(" ")) {
      call.check();
      yield word;
    }
  },
} satisfies CallHandlers;
