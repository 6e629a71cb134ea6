// One call, as the runtime knows it and as its handler sees it.

import { Error, Promise, clearTimeout, monotonic, setTimeout, stringify } from "./intrinsics.mjs";

/** The longest time that a timer takes. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** What a handler gives up by. It is known by its name, like the error of any other signal. */
class AbortError extends Error {
  name = "AbortError";
}

export class Call {
  isCancelled = false;
  context = new CallContext(this);
  served = null; // a promise, once it has begun
  #deadline;
  #controller = null; // made when the handler asks for the signal
  #timer = null; // cancels at the deadline, once something waits for that
  #wake = null; // goes on with a stream that waits for credit

  constructor(id, method, milliseconds, payload, window) {
    this.id = id;
    this.method = method;
    this.payload = payload;
    this.isStream = window !== undefined;
    this.credit = window; // of a stream
    this.#deadline = milliseconds === null ? Infinity : monotonic() + milliseconds / 1000;
  }

  get millisecondsLeft() {
    return (this.#deadline - monotonic()) * 1000;
  }

  /** Whether it is a stream that waits for its reader. */
  get isWaiting() {
    return this.#wake !== null;
  }

  /** Tell the handler that nobody waits for it any more. */
  cancel() {
    if (this.isCancelled) return;
    this.isCancelled = true;
    this.#controller?.abort(this.reason());
    this.#wake?.();
  }

  /** Whether it was cancelled, or its time is over. The host's cancel may still be under way then. */
  isOver() {
    if (!this.isCancelled && monotonic() >= this.#deadline) this.cancel();
    return this.isCancelled;
  }

  /** The error by which a handler gives up. */
  reason() {
    return new AbortError(`the call of ${stringify(this.method)} was cancelled`);
  }

  get signal() {
    if (this.#controller === null) {
      this.#controller = new AbortController();
      if (this.isOver()) this.#controller.abort(this.reason());
      else this.#cancelInTime();
    }
    return this.#controller.signal;
  }

  addCredit(items) {
    if (!this.isStream) return;
    this.credit += items;
    this.#wake?.();
  }

  /** Wait for credit, or to be cancelled. */
  async waitCredit() {
    if (this.isOver()) return;
    this.#cancelInTime();
    await new Promise((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = null;
  }

  /** Cancel it at its deadline, also if nothing of it runs then. */
  #cancelInTime() {
    const left = this.millisecondsLeft;
    if (left <= LONGEST_TIMER_MS) this.#timer ??= setTimeout(() => this.cancel(), left).unref();
  }

  /** It has its last frame. */
  end() {
    if (this.#timer !== null) clearTimeout(this.#timer);
  }
}

/** What `process.call` and the second argument of a handler are. */
class CallContext {
  #call;
  #deadline;

  constructor(call) {
    this.#call = call;
  }

  get method() {
    return this.#call.method;
  }

  get deadline() {
    this.#deadline ??= performance.now() + this.#call.millisecondsLeft; // on the clock that the entry reads
    return this.#deadline;
  }

  get isCancelled() {
    return this.#call.isOver();
  }

  get signal() {
    return this.#call.signal;
  }

  check() {
    if (this.#call.isOver()) throw this.#call.reason();
  }
}
