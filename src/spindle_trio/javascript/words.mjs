// What is said of whatever an entry has thrown, which may be anything: to a person, and within a frame.

import { inspect } from "node:util";

import {
  Error, byteLength, cut, floor, isNativeError, replaced, toWellFormed, trimmed, writeSync,
} from "./intrinsics.mjs";

/** Characters of an error's message that its one-line form has; all of it is in the stack. */
const MESSAGE_CHARACTERS = 1000;

const STDERR = 2;

const NOT_SHOWN = "(what was thrown cannot be shown)";

/** Whether something is an error, of this realm or of another one. */
export function isError(value) {
  try {
    return isNativeError(value) || value instanceof Error;
  } catch {
    return false; // a proxy does not tell
  }
}

/** Show whatever was thrown: an error with its stack and causes. */
export function describe(thrown) {
  try {
    return typeof thrown === "string" ? thrown : inspect(thrown);
  } catch {
    return describePlainly(thrown);
  }
}

/** The same where the entry has replaced what Node shows values with, or the value does not want to be shown. */
function describePlainly(thrown) {
  try {
    return isNativeError(thrown) ? `${thrown.stack}` : NOT_SHOWN;
  } catch {
    return NOT_SHOWN;
  }
}

/** Say in one line what was thrown. */
export function summarise(thrown) {
  try {
    if (!isError(thrown)) return oneLine(describe(thrown));
    const { name, message } = thrown;
    return oneLine(message ? `${name}: ${message}` : `${name}`);
  } catch {
    return NOT_SHOWN;
  }
}

function oneLine(text) {
  const line = replaced(trimmed(toWellFormed(text)), /\s*\n\s*/g, " ");
  return line.length <= MESSAGE_CHARACTERS ? line : `${toWellFormed(cut(line, 0, MESSAGE_CHARACTERS))}…`;
}

/** Make a text one that a frame may have, with so many bytes of UTF-8 at most: its middle goes. */
export function cutMiddle(text, room) {
  const whole = toWellFormed(text);
  if (byteLength(whole) <= room) return whole;
  const mark = "\n…\n";
  // No character takes more than three bytes.
  const half = floor((room / 3 - mark.length) / 2);
  return half <= 0 ? "" : toWellFormed(`${cut(whole, 0, half)}${mark}${cut(whole, -half)}`);
}

/** Write a line to stderr, whatever the entry has done to `process.stderr`. */
export function print(text) {
  try {
    writeSync(STDERR, `${toWellFormed(text)}\n`);
  } catch {
    // It was closed, or nobody reads it: nobody is left to be told.
  }
}
