// Serves calls. It is loaded for the first handler that an entry registers; notes/protocol.md has its frames.
//
// Calls begin in order, a few at a time, and each ends with exactly one answer, end or failure. A cancel may come
// before its call, which is on another lane; it is remembered until then. JavaScript cannot interrupt a function, so a
// handler learns of a cancel from its call. A generator gets `return()` as soon as it does not run.

import { AsyncLocalStorage } from "node:async_hooks";

import { CallHandlers } from "./call_handlers.mjs";
import { Call, LONGEST_TIMER_MS } from "./call.mjs";
import {
  Map, RangeError, TypeError, addTo, asyncIterator, clearInterval, cut, findIn, forEachIn, isGeneratorFunction,
  isGeneratorObject, isInteger, max, min, monotonic, push, removeFrom, setImmediate, setInterval, shift, splice,
  stringify,
} from "./intrinsics.mjs";
import { Lane, readWithKind } from "./lane.mjs";
import { TAGGED, encodeWithBytes } from "./payload.mjs";
import { describe, failureOfCall, report } from "./words.mjs";

// The kinds of frames: the first character of a body.
const CALL = "\u0001";
const ANSWER = "\u0002";
const ITEM = "\u0003";
const END = "\u0004";
const FAILURE = "\u0006";

const CANCELLED = '{"cancelled":true}';

/** Bytes around a value in its frame, at most: the kind, brackets, a comma, and the id. */
const AROUND_BYTES = 32;

/** How many calls run at once, by default. */
const CONCURRENCY = 16;

/** How many calls to read before they can begin, at least: those that are cancelled meanwhile are answered at once. */
const READ_AHEAD = 64;

/** Seconds for which calls begin one after another, before other events have their turn. */
const TURN = 0.005;

/** How many beats come in one heartbeat timeout. */
const BEATS = 4;

export class Calls {
  #lane;
  #limits;
  #beat;
  #beatMs;
  #beats = null; // the timer
  #storage = new AsyncLocalStorage();
  #handlers = new CallHandlers();
  #running = new Map(); // by id
  #waiting = []; // calls that have not begun
  #early = new Map(); // the ids of calls that were cancelled before they came
  #newest = 0; // the id of the last call that came
  #concurrency = CONCURRENCY;
  #turnEnd = null; // when other events have their turn
  #isClosed = false;
  #whenIdle = null;

  /**
   * @param fd the calls lane
   * @param facts the frame `init`
   * @param beat called while there are handlers, several times in each heartbeat timeout
   */
  constructor(fd, facts, beat) {
    const { limits, heartbeatTimeoutMs } = facts;
    this.#limits = { ...limits, frameBytes: limits.frameBytes - AROUND_BYTES };
    this.#beat = beat;
    this.#beatMs = heartbeatTimeoutMs / BEATS;
    this.#lane = new Lane(fd, (body) => this.#take(body), () => {}, readWithKind);
    this.#lane.unref(); // the control lane keeps the process alive
    this.#lane.resume();
  }

  /** How many handlers there are. */
  get count() {
    return this.#handlers.count;
  }

  /** How many calls may run at once. */
  get concurrency() {
    return this.#concurrency;
  }

  /** The call whose handler runs this code, as it sees it; undefined outside of one. */
  get current() {
    return this.#storage.getStore();
  }

  /** Register a handler: `(method, handler)`, or `(handler)` if it has a name. Return a function that removes it. */
  add(registration) {
    const takeBack = this.#handlers.add(registration);
    if (this.#beatMs > 0) this.#beats ??= setInterval(this.#beat, min(this.#beatMs, LONGEST_TIMER_MS)).unref();
    return () => {
      takeBack();
      if (this.count > 0) return;
      clearInterval(this.#beats);
      this.#beats = null;
    };
  }

  /** Set how many calls may run at once. */
  limit(concurrency) {
    if (!isInteger(concurrency) || concurrency < 1) {
      throw new RangeError(`limitCalls() takes an integer of 1 or more, not ${describe(concurrency)}`);
    }
    this.#concurrency = concurrency;
    this.#beginWaiting();
  }

  /** Hear a frame of the control lane. */
  hear(frame) {
    if (frame.type === "cancel") this.#cancel(frame.call);
    else if (frame.type === "credit") this.#addCredit(frame.call, frame.items);
  }

  /** Begin no more calls, and call a function once those that run have ended. */
  finish(then) {
    this.#close();
    if (this.#running.size === 0) then();
    else this.#whenIdle = then;
  }

  /** Cancel all calls. Only generators that wait for their readers are sure to end, so only those are awaited. */
  async cancelAll() {
    this.#close();
    this.#whenIdle = null;
    const awaited = [];
    forEachIn(this.#running, (call) => {
      if (call.isWaiting) push(awaited, call.served);
      call.cancel();
    });
    for (let index = 0; index < awaited.length; index += 1) await awaited[index];
  }

  /** Write what waits, without yielding. */
  flush(beat) {
    this.#lane.flush(Infinity, beat);
  }

  /** Begin no more calls. Those that are cancelled before they could begin are ended still, so that the host knows. */
  #close() {
    this.#isClosed = true;
    this.#readOrPause();
  }

  // ---- from the host

  #take({ kind, frame }) {
    if (kind !== CALL) return;
    const [id, method, milliseconds, payload, window] = frame;
    this.#newest = id;
    if (removeFrom(this.#early, id)) this.#push(FAILURE, id, CANCELLED);
    else push(this.#waiting, new Call(id, method, milliseconds, payload, window));
    this.#beginWaiting();
  }

  #cancel(id) {
    if (id > this.#newest) {
      addTo(this.#early, id, true);
      this.#readOrPause();
      return;
    }
    findIn(this.#running, id)?.cancel();
    const index = this.#indexOf(id);
    if (index === -1) return;
    splice(this.#waiting, index, 1);
    this.#push(FAILURE, id, CANCELLED);
  }

  #addCredit(id, items) {
    const call = findIn(this.#running, id) ?? this.#waiting[this.#indexOf(id)];
    call?.addCredit(items); // otherwise it has ended
  }

  /** Find a call among those that have not begun. */
  #indexOf(id) {
    for (let index = 0; index < this.#waiting.length; index += 1) {
      if (this.#waiting[index].id === id) return index;
    }
    return -1;
  }

  /** Leave further calls unread while many wait; but read on to those that were cancelled before they came. */
  #readOrPause() {
    const isFull = this.#isClosed || this.#waiting.length >= max(READ_AHEAD, this.#concurrency);
    if (isFull && this.#early.size === 0) this.#lane.pause();
    else this.#lane.resume();
  }

  // ---- handlers

  #beginWaiting() {
    while (!this.#isClosed && this.#waiting.length > 0 && this.#running.size < this.#concurrency && this.#mayBegin()) {
      const call = shift(this.#waiting);
      addTo(this.#running, call.id, call);
      call.served = this.#storage.run(call.context, this.#serve, call);
    }
    this.#readOrPause();
  }

  /** Whether a call may begin now. Otherwise calls go on in the next turn of the event loop. */
  #mayBegin() {
    if (this.#turnEnd === null) {
      this.#turnEnd = monotonic() + TURN;
      setImmediate(() => {
        this.#turnEnd = null;
        this.#beginWaiting();
      });
    }
    return monotonic() < this.#turnEnd;
  }

  #serve = async (call) => {
    const { id } = call;
    try {
      const handler = this.#handlers.find(call.method);
      if (call.isOver()) throw call.reason();
      if (handler === undefined) this.#push(FAILURE, id, this.#handlers.known(this.#limits));
      else if (call.isStream) await this.#stream(call, handler);
      else await this.#answer(call, handler);
    } catch (error) {
      this.#push(FAILURE, id, call.isCancelled && isAbort(error) ? CANCELLED : failureOfCall(error, this.#limits));
    }
    call.end();
    removeFrom(this.#running, id);
    this.#beginWaiting();
    if (this.#running.size > 0 || this.#whenIdle === null) return;
    const then = this.#whenIdle;
    this.#whenIdle = null;
    then();
  };

  async #answer(call, handler) {
    const advice = "read it with stream(), not with call()";
    if (isGeneratorFunction(handler)) { // refused before it is called, and so without a stack
      const refusal = new TypeError(`${stringify(call.method)} is a generator: ${advice}`);
      this.#push(FAILURE, call.id, failureOfCall(refusal, this.#limits, false));
      return;
    }
    let value = handler(call.payload, call.context);
    if (typeof value?.then === "function") value = await value;
    if (isGeneratorObject(value)) throw new TypeError(`${stringify(call.method)} has returned a generator: ${advice}`);
    this.#pushValue(ANSWER, call.id, value, "answer");
  }

  async #stream(call, handler) {
    let items = handler(call.payload, call.context);
    if (typeof items?.then === "function") items = await items;
    if (!isGeneratorObject(items)) items = items?.[asyncIterator]?.();
    if (items === undefined) {
      throw new TypeError(`${stringify(call.method)} is no generator, and answers once: use call(), not stream()`);
    }
    for (;;) {
      if (call.credit === 0) await call.waitCredit();
      if (call.isOver()) break;
      const { done, value } = await items.next();
      if (done) {
        this.#push(END, call.id);
        return;
      }
      if (call.isOver()) break;
      call.credit -= 1;
      try {
        this.#pushValue(ITEM, call.id, value, "item");
      } catch (error) {
        await closeAfter(items);
        throw error;
      }
    }
    await items.return?.();
    throw call.reason();
  }

  // ---- to the host

  #pushValue(kind, id, value, name) {
    const { text, raws } = encodeWithBytes(value ?? null, this.#limits, name);
    if (raws.length > 0) {
      const body = `${kind}${TAGGED}[${id},${cut(text, TAGGED.length)}]`;
      this.#lane.pushWithBytes(body, raws, this.#limits.frameBytes);
    } else if (text[0] === TAGGED) this.#push(kind + TAGGED, id, cut(text, TAGGED.length));
    else this.#push(kind, id, text);
  }

  #push(kind, id, text) {
    this.#lane.push(text === undefined ? `${kind}[${id}]` : `${kind}[${id},${text}]`);
  }
}

/** Close a generator because of an error, which counts more than one of the clean-up. */
async function closeAfter(items) {
  try {
    await items.return?.();
  } catch (error) {
    report("a generator threw in its clean-up", error);
  }
}

/** Whether this is the error by which code gives up when its signal says so. */
function isAbort(error) {
  try {
    return error.name === "AbortError";
  } catch {
    return false;
  }
}
