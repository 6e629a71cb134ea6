// Handlers that an entry has registered. Those of messages and stops are called in order of registration; one that
// throws stops no other.

import { TypeError, min, push, slice, splice } from "./intrinsics.mjs";

/** How many calls a host has under way at most; no larger number need be told. */
const MOST_CALLS = 65536;

export class Handlers {
  #registered = [];
  #report;

  /** @param report called with whatever a handler throws */
  constructor(report) {
    this.#report = report;
  }

  get count() {
    return this.#registered.length;
  }

  /** Register a function, and return a function that removes it. Registering twice counts once. */
  add(handler) {
    if (typeof handler !== "function") throw new TypeError(`a handler must be a function, not ${typeof handler}`);
    let registration = this.#registered[this.#find((other) => other.handler === handler)];
    if (registration === undefined) {
      registration = { handler };
      push(this.#registered, registration);
    }
    return () => {
      const index = this.#find((other) => other === registration);
      if (index !== -1) splice(this.#registered, index, 1);
    };
  }

  /** Call each handler. If one throws, that is reported, and the others still run. */
  tell(value) {
    const registered = slice(this.#registered);
    for (let index = 0; index < registered.length; index += 1) {
      const registration = registered[index];
      if (this.#find((other) => other === registration) === -1) continue; // an earlier handler has removed it
      const { handler } = registration;
      try {
        handler(value);
      } catch (error) {
        this.#report(error);
      }
    }
  }

  #find(isWanted) {
    for (let index = 0; index < this.#registered.length; index += 1) {
      if (isWanted(this.#registered[index])) return index;
    }
    return -1;
  }
}

/** What an entry does about calls. What serves them is loaded for the first handler. */
export class CallDesk {
  #control;
  #open;
  #served = null;
  #hasAccepted = false; // the host may send calls, once it knows that there are handlers
  #isAnnounced = false; // it knows that

  /**
   * @param control the control lane, on which the host hears that there are handlers
   * @param open makes what serves calls
   */
  constructor(control, open) {
    this.#control = control;
    this.#open = open;
  }

  get count() {
    return this.#served?.count ?? 0;
  }

  /** The call whose handler runs this code; undefined outside of one. */
  get current() {
    return this.#served?.current;
  }

  /** The functions of an entry's context. */
  functions = {
    onCall: (...registration) => {
      this.#served ??= this.#open();
      const takeBack = this.#served.add(registration);
      if (this.#hasAccepted && !this.#isAnnounced) this.#announce();
      return takeBack;
    },
    limitCalls: (concurrency) => {
      this.#served ??= this.#open();
      const before = this.#served.concurrency;
      this.#served.limit(concurrency);
      if (this.#hasAccepted && this.#isAnnounced && concurrency !== before) this.#announce();
    },
  };

  /** Accept the host's offer of calls: the fields of `ready`. */
  accept() {
    this.#hasAccepted = true;
    this.#isAnnounced = this.count > 0;
    return `,"protocol":2${this.#isAnnounced ? `,"calls":true,${this.#concurrency}` : ""}`;
  }

  /** Tell the host that there are handlers, and how many calls may run at once. */
  #announce() {
    this.#isAnnounced = true;
    this.#control.push(`{"type":"calls",${this.#concurrency}}`);
  }

  get #concurrency() {
    return `"concurrency":${min(this.#served.concurrency, MOST_CALLS)}`;
  }

  /** Hear a frame of the control lane. */
  hear(frame) {
    this.#served?.hear(frame);
  }

  /** Begin no more calls, and call a function once those that run have ended. */
  finish(then) {
    this.#hasAccepted = false;
    if (this.#served === null) then();
    else this.#served.finish(then);
  }

  async cancelAll() {
    await this.#served?.cancelAll();
  }

  flush(beat) {
    this.#served?.flush(beat);
  }
}
