// Describes whatever an entry has thrown, for a person and for a frame.

import { inspect } from "node:util";

import {
  Error, byteLength, cut, floor, isNativeError, matches, min, push, replaced, stringify, toWellFormed, trimmed, writeSync,
} from "./intrinsics.mjs";

/** Characters of a message in its one-line form, at most. The stack has the whole message. */
const MESSAGE_CHARACTERS = 1000;

/** Bytes of UTF-8 for the texts of one failure, at most. */
const FAILURE_BYTES = 64 * 1024;

/** Bytes that a `fail` frame needs beside its texts. */
const FRAME_NAMES_BYTES = 100;

const STDERR = 2;

/** The runtime's own frames in a stack, each with those below it. */
const FOLDER = replaced(new URL(".", import.meta.url).pathname, /\W/g, "\\$&");
const RUNTIME_FRAMES = new RegExp(`\\n +at [^\\n]*${FOLDER}[^\\n]*(?:\\n +at [^\\n]*)*`, "g");

const NOT_SHOWN = "(what was thrown cannot be shown)";

/** Whether something is an error, of this realm or of another one. */
export function isError(value) {
  try {
    return isNativeError(value) || value instanceof Error;
  } catch {
    return false; // a proxy may throw
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

/** The same if the entry has replaced what `inspect` uses, or the value throws when it is shown. */
function describePlainly(thrown) {
  try {
    return isNativeError(thrown) ? `${thrown.stack}` : NOT_SHOWN;
  } catch {
    return NOT_SHOWN;
  }
}

/** Describe in one line whatever was thrown. */
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

/**
 * Write the texts of a failure as the fields of a frame.
 * @param error what went wrong
 * @param traceback where; undefined if unknown
 * @param limits the host's; undefined before the first frame
 */
export function failureFields(error, traceback, limits) {
  const [text, trace] = fitted([error, traceback ?? ""], limits);
  return `"error":${stringify(text)},${trace && `"traceback":${stringify(trace)},`}`;
}

/** Write whatever a handler of a call has thrown, for the frame that ends the call. */
export function failureOfCall(thrown, limits, hasStack = isError(thrown)) {
  const [error, text, trace] = fitted([...nameAndText(thrown), hasStack ? traceOf(thrown) : ""], limits);
  const hasRoom = (limits.containerEntries ?? Infinity) > 2; // entries in the frame's object
  const more = trace && hasRoom ? `,"traceback":${stringify(trace)}` : "";
  return `{"error":${stringify(error)},"text":${stringify(text)}${more}}`;
}

/** An error with its stack and causes, without frames of the runtime; nothing if no other frames are left. */
function traceOf(thrown) {
  const whole = describe(thrown);
  const trace = replaced(whole, RUNTIME_FRAMES, (frames) => (frames[frames.length - 1] === "{" ? " {" : ""));
  return trace === whole || matches(/\n +at /, trace) ? trace : "";
}

/** An error's class and message; for anything else, its type, and how it is shown. */
function nameAndText(thrown) {
  try {
    return isError(thrown) ? [`${thrown.name}`, `${thrown.message}`] : [typeof thrown, describe(thrown)];
  } catch {
    return ["Error", NOT_SHOWN];
  }
}

/** Cut texts, the most important ones first, to what fits into a frame. */
function fitted(texts, limits) {
  // One byte of text may take six in JSON.
  let room = limits === undefined ? FAILURE_BYTES : floor((limits.frameBytes - FRAME_NAMES_BYTES) / 6);
  room = min(FAILURE_BYTES, room, limits?.textBytes ?? Infinity);
  const cuts = [];
  for (let index = 0; index < texts.length; index += 1) {
    const text = room > 0 ? cutMiddle(texts[index], room) : "";
    room -= byteLength(text);
    push(cuts, text);
  }
  return cuts;
}

function cutMiddle(text, room) {
  const whole = toWellFormed(text);
  if (byteLength(whole) <= room) return whole;
  const mark = "\n…\n";
  // No character takes more than three bytes.
  const half = floor((room / 3 - mark.length) / 2);
  return half <= 0 ? "" : toWellFormed(`${cut(whole, 0, half)}${mark}${cut(whole, -half)}`);
}

/** Report on stderr an error that fails nothing. */
export function report(what, error) {
  print(`${what}: ${describe(error)}`);
}

/** Write a line to stderr, whatever the entry has done to `process.stderr`. */
export function print(text) {
  try {
    writeSync(STDERR, `${toWellFormed(text)}\n`);
  } catch {
    // It was closed, or nobody reads it.
  }
}
