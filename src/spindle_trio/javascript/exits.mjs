// Exits the process, whatever its entry has registered for that.

import { exit, process, setImmediate } from "./intrinsics.mjs";
import { report } from "./words.mjs";

/** Exit, whatever the entry's listeners do. They are called once. */
export function leave(code) {
  try {
    exit(code);
  } catch (error) {
    report("a listener for the exit threw", error);
  }
  process.reallyExit(code);
}

/**
 * Exit by an uncaught error. Only Node knows the line of a syntax error, and it prints that line last. So the last
 * frame is not sent: the host would end the process at that frame, before the line is printed.
 */
export function dieOf(error) {
  process.removeAllListeners("uncaughtException");
  setImmediate(() => {
    throw error;
  });
}

/**
 * Call `finish` after the entry's exit listeners have run; in Bun, before them.
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
