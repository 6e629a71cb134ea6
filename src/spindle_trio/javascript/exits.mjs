// How a process exits, whatever its entry has registered for that.

import { exit, process, setImmediate } from "./intrinsics.mjs";
import { report } from "./words.mjs";

/** Exit, whatever listeners of the entry do; they are called once. */
export function leave(code) {
  try {
    exit(code);
  } catch (error) {
    report("a listener for the exit threw", error);
  }
  process.reallyExit(code);
}

/**
 * Exit by an error that nobody handles. Node alone knows the line of a syntax error, and prints it then, which is after
 * all that could still be called: so there is no last frame, at which the host would end the process.
 */
export function dieOf(error) {
  process.removeAllListeners("uncaughtException");
  setImmediate(() => {
    throw error;
  });
}

/**
 * Call something once the listeners of the entry for the exit have run; in Bun, before them.
 * @param begin called when the exit begins, before these listeners
 * @param finish called with the exit code at the very end
 */
export function atTheVeryEnd(begin, finish) {
  if (process.versions.bun !== undefined) {
    process.on("exit", finish);
    return;
  }
  const { reallyExit } = process;
  process.reallyExit = (code) => {
    finish(code ?? process.exitCode ?? 0);
    reallyExit.call(process, code);
  };
  process.on("exit", begin);
}
