// What `send` and `complete` take, and what they refuse before anything runs.
import type { EntryFunction, ProcessContext } from "./spindle-trio.js";

interface Report {
  at: Date;
  data: Uint8Array;
  note?: string;
  missing: (number | undefined)[];
}

export default function run(process: ProcessContext): void {
  const report: Report = { at: new Date(), data: new Uint8Array(3), missing: [1, undefined] };
  process.send(report);
  process.send([new ArrayBuffer(1), new DataView(new ArrayBuffer(1)), null]);
  process.send(JSON.parse("[]"));
  // @ts-expect-error a Map is no JSON
  process.send(new Map());
  // @ts-expect-error nor is a Set within something
  process.send({ items: [new Set([1])] });
  // @ts-expect-error nor a bigint
  process.send([1n]);
  // @ts-expect-error nor a function
  process.complete({ then: () => 1 });
  // @ts-expect-error a bare undefined says nothing
  process.send(undefined);
  process.complete(report);
}

export const entry: EntryFunction = run;
