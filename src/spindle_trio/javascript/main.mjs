// The program inside a JavaScript process: from the first frame to the last. A launcher runs it with
//
//     NAME PARENT FILE CONTROL MESSAGES PAGE CALLS
//
// NAME and PARENT are for people, FILE is the entry. The others are descriptors: two lanes, the heartbeat page, and the
// calls lane.
// `spindle_trio/child/_program.py` is its twin; notes/protocol.md has the protocol of both.

import { makeContext } from "./context.mjs";
import { NEVER_LOADED, UnfitModule, loadEntry, openCalls, tooOld } from "./entry.mjs";
import { atTheVeryEnd, dieOf, leave } from "./exits.mjs";
import { CallDesk, Handlers } from "./handlers.mjs";
import {
  Number, Promise, SyntaxError, cut, emit, kill, listenerCount, process, push, queueMicrotask, setImmediate, shift,
  stringify, trimmed,
} from "./intrinsics.mjs";
import { Lane } from "./lane.mjs";
import { Page, Pulse } from "./page.mjs";
import { PayloadError, TAGGED, encodePayload, encodeWithBytes } from "./payload.mjs";
import { describe, failureFields, isError, print, report, summarise } from "./words.mjs";

const [, , file, ...others] = process.argv.slice(2);
const [controlFd, messagesFd, pageFd, callsFd] = others.slice(0, 4).map(Number);
const isBun = process.versions.bun !== undefined;
const pid = process.pid;
const page = new Page(pageFd);

const control = new Lane(controlFd, hear, endWithoutHost);
const pulse = isBun ? new Pulse(control) : page;
const messages = new Lane(messagesFd, receive, () => {});
const messageHandlers = new Handlers((error) => report("a message handler threw", error));
const calls = new CallDesk(control, () => openCalls(callsFd, facts, beatAnyhow));
const stopHandlers = new Handlers((error) => report("a stop handler threw", error));

let facts = null; // what `init` said
let hasCalled = false; // the entry
let returned; // by the entry
let isReady = false;
let failure; // the error that has failed the process, if any
let finalWord = null; // the type of the first of `complete`, `fail` and `stopped`
let isCleaningUp = false; // after the final word only clean-up code may send
let stop = null; // the notice, once a stop was requested
let cleanUp = null;
let isEnding = false;
let endBy = leave; // how the process exits in the end
let isFinished = false; // the last frame is written
const inbox = []; // messages that wait for a handler
let isDelivering = false;
const functions = { ready, heartbeat, send, onMessage, complete, fail, onStop };

process.argv = [process.argv[0], file, ...others.slice(4)];
// Print synchronously: the host always reads, and an exit would lose what is still to be written.
process.stdout._handle?.setBlocking?.(true);
process.stderr._handle?.setBlocking?.(true);
process.on("uncaughtException", giveUp);
process.on("unhandledRejection", giveUpRejected);
process.on("beforeExit", hearIdle);
atTheVeryEnd(beginExit, finish);
messages.unref(); // the control lane alone keeps the process alive
control.resume();

// ---- frames from the host

function hear(frame) {
  if (frame.type === "init") begin(frame);
  else if (frame.type === "stop") hearStop(frame);
  else calls.hear(frame);
}

function begin(init) {
  facts = init;
  if (page.stopIsRequested()) return; // the stop frame follows: do not call the entry
  const problem = tooOld(process.versions);
  if (problem === null) void run();
  else fail(problem);
}

function hearStop(frame) {
  if (stop !== null || isEnding) return;
  stop = { reason: frame.reason };
  const isTold = hasCalled && stopHandlers.count > 0;
  calls.finish(isTold ? () => {} : endStopped);
  if (isTold) stopHandlers.tell(stop);
}

function endStopped() {
  if (finalWord === null) sayFinally("stopped", "");
  void end(0);
}

function receive(payload) {
  push(inbox, payload);
  deliver();
}

function deliver() {
  if (isDelivering) return; // called by a handler that registers another one
  isDelivering = true;
  try {
    while (inbox.length > 0 && messageHandlers.count > 0 && !isEnding) messageHandlers.tell(shift(inbox));
  } finally {
    isDelivering = false;
  }
  if (messageHandlers.count === 0) messages.pause();
}

/** The host is gone, and nothing may outlive it. */
function endWithoutHost() {
  kill(pid, "SIGKILL");
}

// ---- the entry

async function run() {
  control.unref(); // until it is ready: an entry that waits for nothing but the host never will be
  const name = `the entry ${stringify(facts.entry)}`;
  let entry;
  try {
    entry = await loadEntry(file);
  } catch (error) {
    if (isEnding) return;
    if (error instanceof SyntaxError && !isBun) endBy = () => dieOf(error);
    if (error instanceof UnfitModule) fail(`${name} ${error.message}`);
    else failBy(error, `${name} could not be loaded: `);
    return;
  }
  if (isEnding || page.stopIsRequested()) return;
  hasCalled = true;
  try {
    returned = await entry(makeContext(facts, functions, calls));
  } catch (error) {
    failBy(error);
    return;
  }
  if (typeof returned === "function") cleanUp = returned;
}

/** The event loop waits for nothing but the host. An entry that is not ready now, and has no handler, never will be. */
function hearIdle() {
  if (isReady || isEnding) return;
  if (page.stopIsRequested()) {
    control.ref(); // the stop frame follows
  } else if (!hasCalled) {
    fail(`the entry ${stringify(facts.entry)} ${NEVER_LOADED}`);
  } else if (returned !== undefined && cleanUp === null && !hasHandlers()) {
    try {
      complete(returned);
    } catch (error) {
      failBy(error); // the result is too large, or a getter has thrown
    }
  } else {
    control.ref();
  }
}

function hasHandlers() {
  return messageHandlers.count + stopHandlers.count + calls.count > 0;
}

function ready() {
  if (isReady || finalWord !== null) return;
  isReady = true;
  control.ref();
  beatAnyhow(); // the host may look at the heartbeat as soon as it gets `ready`
  control.push(`{"type":"ready"${facts.offers >= 2 ? calls.accept() : ""}}`);
}

function heartbeat() {
  pulse.beat();
  messages.poke();
}

function send(payload) {
  if (finalWord !== null && !isCleaningUp) return;
  const { text, raws } = encode(payload, "payload", encodeWithBytes);
  if (raws.length === 0) messages.push(text);
  else messages.pushWithBytes(text, raws, facts.limits.frameBytes);
}

/**
 * Write a value as JSON. A value that is no JSON also fails the process: code that catches the error here is seldom
 * the code that waits for the value. A value that is only too large just throws, since it can be sent in parts.
 */
function encode(value, name, write) {
  try {
    return write(value, facts.limits, name);
  } catch (error) {
    if (error instanceof PayloadError && !error.isOverLimit) failBy(error);
    throw error;
  }
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
  const value = encode(result ?? null, "result", encodePayload);
  const isTagged = value[0] === TAGGED;
  sayFinally("complete", `"result":${isTagged ? cut(value, TAGGED.length) : value},`, isTagged ? TAGGED : "");
  void end(0);
}

function fail(error) {
  if (finalWord !== null) return;
  if (isError(error)) failBy(error);
  else failWith(trimmed(error === undefined ? "" : describe(error)) || "the entry called fail() without saying why");
}

// ---- ends

/** An unhandled rejection. By default it becomes an exception, which loses a reason that is no error. */
function giveUpRejected(reason) {
  if (listenerCount("unhandledRejection") > 1) return; // the entry takes care of it
  emit("uncaughtException", reason, "unhandledRejection");
}

/** An uncaught exception. */
function giveUp(error) {
  if (listenerCount("uncaughtException") > 1) return; // the entry takes care of it
  if (stop === null || finalWord !== null) {
    failBy(error);
    return;
  }
  report("while the process was stopping", error); // it ends now, as requested
  void end(1);
}

function failBy(error, before = "") {
  if (finalWord !== null && error === failure) return; // it is reported already
  failure = error;
  failWith(before + summarise(error), isError(error) ? describe(error) : undefined);
}

function failWith(error, traceback) {
  if (finalWord === null) {
    sayFinally("fail", failureFields(error, traceback, facts?.limits));
  } else {
    print(traceback ?? error);
  }
  void end(1);
}

function sayFinally(type, fields, mark = "") {
  finalWord = type;
  control.push(`${mark}{"type":"${type}",${fields}"messages":${messages.sent}}`);
  flush(); // the entry may never yield again
}

/** Run the clean-up function, once, and exit. The code that runs now may finish first. */
async function end(code) {
  if (isEnding) return;
  isEnding = true;
  control.ref();
  messages.pause();
  calls.finish(() => {});
  await new Promise(setImmediate);
  isCleaningUp = true;
  await calls.cancelAll();
  try {
    await cleanUp?.();
  } catch (error) {
    report("the clean-up function threw", error);
  }
  endBy(code);
}

/** Let the entry's exit listeners send. Write what waits, in case Node itself ends the process by an error. */
function beginExit() {
  isCleaningUp = true;
  flush();
}

/** Write what still waits, and the last frame. */
function finish(code) {
  if (isFinished) return;
  isFinished = true;
  flush();
  control.push(`{"type":"exiting","messages":${messages.sent},"code":${Number(code) & 0xff}}`);
  control.flush();
}

/** Write what waits. Control goes first: its final word has the host read all messages, even into a full inbox. */
function flush() {
  control.flush(Infinity, beatAnyhow); // waiting for the host counts as alive
  messages.flush(Infinity, beatAnyhow);
  calls.flush(beatAnyhow);
}

function beatAnyhow() {
  try {
    heartbeat();
  } catch {
    // The entry has closed the descriptor.
  }
}
