// @ts-check
// An entry: find patterns, which come as messages, in the lines of the payload. `spindle-trio types .` in this folder
// puts the file beside it that tells an editor what `process` is.

/** @type {import("./spindle-trio").EntryFunction<{ lines: string[] }>} */
export default function run(process) {
  const { lines } = process.payload;
  const beats = setInterval(() => process.heartbeat(), process.heartbeatTimeoutMs / 2);
  process.onMessage((message) => {
    const { pattern } = /** @type {{ pattern: string }} */ (message);
    process.send({ looking_for: pattern });
    // While this takes long, the event loop stands still, and no timer beats.
    process.send({ found: lines.filter((line) => new RegExp(pattern).test(line)).length });
  });
  process.ready();
  return () => clearInterval(beats);
}
