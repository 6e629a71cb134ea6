// The program inside a JavaScript process: from the first frame to the last. A launcher runs it with
//
//     NAME PARENT FILE CONTROL MESSAGES PAGE
//
// NAME and PARENT are for people, FILE is what the entry is, and the others are descriptors: two lanes, and the page into
// which heartbeats are written. `spindle_trio/child/_program.py` is its twin, notes/protocol.md what both speak.

import fs from "node:fs";
import { pathToFileURL } from "node:url";
import { inspect } from "node:util";

import { Handlers } from "./handlers.mjs";
import { Lane } from "./lane.mjs";
import { encodePayload } from "./payload.mjs";

const OLDEST_NODE = [20, 19]; // from here on a .js file may be an ES module without a package.json that says so

/** Bytes of UTF-8 that the texts of one failure may have. */
const FAILURE_BYTES = 64 * 1024;

/** Characters of an error's message that its one-line form has; all of it is in the stack. */
const MESSAGE_CHARACTERS = 1000;

/** Bytes that a `fail` frame needs beside its texts. */
const FRAME_NAMES_BYTES = 100;

/** Where in the page the host marks that a stop was requested: the second of two native doubles. */
const STOP_OFFSET = 8;

const [, , file, ...descriptors] = process.argv.slice(2);
const [controlFd, messagesFd, pageFd] = descriptors.map(Number);
const isBun = process.versions.bun !== undefined;
const beat = new Float64Array(1);

const control = new Lane(controlFd, hear, endWithoutHost);
const messages = new Lane(messagesFd, receive, () => {});
const messageHandlers = new Handlers((error) => report("a message handler threw", error));
const stopHandlers = new Handlers((error) => report("a stop handler threw", error));

let facts = null; // what `init` said
let hasCalled = false; // the entry
let isReady = false;
let finalWord = null; // the type of the first of `complete`, `fail` and `stopped`
let stop = null; // the notice, once a stop was requested
let cleanUp = null;
let isEnding = false;
let isFinished = false; // the last frame is written
let inbox = []; // messages that have come, and for which there is no handler
let isDelivering = false;

process.argv = [process.argv[0], file];
process.on("uncaughtException", giveUp); // and rejections that nobody handles
atTheVeryEnd(finish);
control.resume();

// ---- what the host says

function hear(frame) {
  if (frame.type === "init") begin(frame);
  else if (frame.type === "stop") hearStop(frame);
}

function begin(init) {
  facts = init;
  if (stopIsRequested()) return; // the request follows
  if (!isBun && isTooOld(process.versions.node)) {
    fail(`Node ${process.versions.node} is too old for JavaScript entries: install ${OLDEST_NODE.join(".")} or later`);
    return;
  }
  void run();
}

function hearStop(frame) {
  if (stop !== null || isEnding) return;
  stop = { reason: frame.reason };
  if (hasCalled && stopHandlers.count > 0) {
    stopHandlers.tell(stop);
    return;
  }
  say({ type: "stopped", messages: messages.sent });
  void end(0);
}

/** The host marks a request before it sends it: an entry is not called any more then. */
function stopIsRequested() {
  const word = new Float64Array(1);
  fs.readSync(pageFd, word, 0, word.byteLength, STOP_OFFSET);
  return word[0] !== 0;
}

function receive(payload) {
  inbox.push(payload);
  deliver();
}

function deliver() {
  if (isDelivering) return; // a handler has registered another one
  isDelivering = true;
  try {
    while (inbox.length > 0 && messageHandlers.count > 0 && !isEnding) messageHandlers.tell(inbox.shift());
  } finally {
    isDelivering = false;
  }
  if (messageHandlers.count === 0) messages.pause();
}

/** Nobody is left to speak to, and nothing may be left running. */
function endWithoutHost() {
  process.kill(process.pid, "SIGKILL");
}

// ---- the entry

async function run() {
  let entry;
  try {
    entry = functionOf(await import(pathToFileURL(file).href));
  } catch (error) {
    if (!isEnding) failBy(error, `the entry ${JSON.stringify(facts.entry)} could not be loaded: `);
    return;
  }
  if (isEnding || stopIsRequested()) return;
  if (entry === null) {
    fail(`the entry ${JSON.stringify(facts.entry)} exports no function: export one as default, or as run`);
    return;
  }
  hasCalled = true;
  let returned;
  try {
    returned = await entry(makeContext());
  } catch (error) {
    failBy(error);
    return;
  }
  if (typeof returned === "function") cleanUp = returned;
}

/** Find what to call: `default` if that is a function, else `run`; in a CommonJS module also in what it exports. */
function functionOf(module) {
  const exported = module.default;
  const candidates = [exported, exported?.default, module.run, exported?.run];
  return candidates.find((candidate) => typeof candidate === "function") ?? null;
}

function makeContext() {
  const context = { processId: facts.processId, entry: facts.entry, kind: facts.kind };
  for (const field of ["key", "payload", "metadata", "userId"]) {
    if (Object.hasOwn(facts, field)) context[field] = facts[field];
  }
  Object.assign(context, { ready, heartbeat, send, onMessage, complete, fail, onStop });
  // Not enumerable: it is not one of the names of the API that entries are written for.
  Object.defineProperty(context, "heartbeatTimeoutMs", { value: facts.heartbeatTimeoutMs || Infinity });
  return context;
}

function ready() {
  if (isReady || finalWord !== null) return;
  isReady = true;
  say({ type: "ready" });
}

function heartbeat() {
  beat[0] = Number(process.hrtime.bigint()) / 1e9;
  fs.writeSync(pageFd, beat, 0, beat.byteLength, 0);
}

function send(payload) {
  messages.push(encodePayload(payload, facts.limits));
}

function onMessage(handler) {
  const takeBack = messageHandlers.add(handler);
  messages.resume();
  queueMicrotask(deliver);
  return takeBack;
}

function onStop(handler) {
  return stopHandlers.add(handler);
}

function complete(result) {
  if (finalWord !== null) return;
  const value = result === undefined ? "null" : encodePayload(result, facts.limits, "result");
  sayFinally("complete", `{"type":"complete","result":${value},"messages":${messages.sent}}`);
  void end(0);
}

function fail(error) {
  if (finalWord !== null) return;
  if (error instanceof Error) failBy(error);
  else failWith(String(error ?? "").trim() || "the entry called fail() without saying why");
}

// ---- ends

/** An exception or a rejection that nobody has handled. */
function giveUp(error) {
  if (process.listenerCount("uncaughtException") > 1) return; // the entry takes care of it
  if (stop === null || finalWord !== null) {
    failBy(error);
    return;
  }
  report("while the process was stopping", error); // it ends by that, which is what was asked for
  void end(1);
}

function failBy(error, before = "") {
  failWith(before + summarise(error), error instanceof Error ? describe(error) : undefined);
}

function failWith(error, traceback) {
  if (finalWord === null) {
    const limits = facts?.limits;
    // In JSON one byte of text may become six.
    let room = limits === undefined ? FAILURE_BYTES : Math.floor((limits.frameBytes - FRAME_NAMES_BYTES) / 6);
    room = Math.min(FAILURE_BYTES, room, limits?.textBytes ?? Infinity);
    const frame = { type: "fail", error: cutMiddle(error, room), messages: messages.sent };
    room -= Buffer.byteLength(frame.error);
    if (traceback && room > 0) frame.traceback = cutMiddle(traceback, room);
    sayFinally("fail", JSON.stringify(frame));
  } else {
    process.stderr.write(`${traceback ?? error}\n`);
  }
  void end(1);
}

function sayFinally(type, text) {
  finalWord = type;
  control.push(text);
  messages.flush(Infinity, heartbeat); // the entry may never yield again, and the host reads all from now on
}

function say(frame) {
  if (frame.type === "stopped") finalWord ??= frame.type;
  control.push(JSON.stringify(frame));
}

/** Run the clean-up function, once, and end. What the entry is doing at the moment, it may still do to its end. */
async function end(code) {
  if (isEnding) return;
  isEnding = true;
  messages.pause();
  await new Promise(setImmediate);
  try {
    await cleanUp?.();
  } catch (error) {
    report("the clean-up function threw", error);
  }
  process.exit(code);
}

/** Have a function called when all that the entry has registered for the end has run. */
function atTheVeryEnd(finishWith) {
  if (isBun) {
    process.on("exit", finishWith);
    return;
  }
  const { reallyExit } = process;
  process.reallyExit = (code) => {
    finishWith(code ?? process.exitCode ?? 0);
    reallyExit.call(process, code);
  };
}

/** Write what still waits, and the last frame. */
function finish(code) {
  if (isFinished) return;
  isFinished = true;
  messages.flush(Infinity, heartbeat); // a wait for the host counts as alive
  say({ type: "exiting", messages: messages.sent, code: Number(code) & 0xff });
  control.flush();
}

// ---- words

function report(what, error) {
  process.stderr.write(`${what}: ${describe(error)}\n`);
}

/** Show whatever was thrown: an error with its stack and causes. */
function describe(error) {
  try {
    return typeof error === "string" ? error : inspect(error);
  } catch {
    return "(what was thrown cannot be shown)";
  }
}

function summarise(error) {
  try {
    if (!(error instanceof Error)) return oneLine(typeof error === "string" ? error : inspect(error));
    return oneLine(error.message ? `${error.name}: ${error.message}` : error.name);
  } catch {
    return "(what was thrown cannot be shown)";
  }
}

function oneLine(text) {
  const line = text.toWellFormed().trim().replace(/\s*\n\s*/g, " ");
  return line.length <= MESSAGE_CHARACTERS ? line : `${line.slice(0, MESSAGE_CHARACTERS)}…`;
}

function cutMiddle(text, room) {
  let whole = text.toWellFormed();
  if (Buffer.byteLength(whole) <= room) return whole;
  const mark = "\n…\n";
  // No character takes more than three bytes.
  const half = Math.max(0, Math.floor((room / 3 - mark.length) / 2));
  whole = half === 0 ? "" : `${whole.slice(0, half)}${mark}${whole.slice(-half)}`;
  return whole.toWellFormed();
}

function isTooOld(version) {
  const [major, minor] = version.split(".").map(Number);
  return major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1]);
}
