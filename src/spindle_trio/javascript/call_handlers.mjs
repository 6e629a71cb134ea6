// The functions that answer calls, by the names of their methods.

import {
  Error, Map, RangeError, TypeError, addTo, byteLength, cut, findIn, forEachIn, isWellFormed, push, removeFrom, sort,
  stringify,
} from "./intrinsics.mjs";
import { encodePayload } from "./payload.mjs";

/** How long the name of a method may be, in bytes of UTF-8. The host allows no longer ones either. */
const NAME_BYTES = 1024;

/** How many names a failure lists, at most. */
const MOST_KNOWN = 1000;

export class CallHandlers {
  #registered = new Map();

  get count() {
    return this.#registered.size;
  }

  /** Register `[method, handler]`, or `[handler]` if it has a name. Return a function that removes it. */
  add(registration) {
    const isNamed = typeof registration[0] !== "function";
    const handler = isNamed ? registration[1] : registration[0];
    const method = isNamed ? registration[0] : handler.name;
    checkName(method, isNamed);
    if (typeof handler !== "function") throw new TypeError(`a handler must be a function, not ${typeof handler}`);
    if (findIn(this.#registered, method) !== undefined) {
      throw new Error(`the method ${stringify(method)} has a handler already: register each name once`);
    }
    const registered = { handler };
    addTo(this.#registered, method, registered);
    return () => {
      if (findIn(this.#registered, method) === registered) removeFrom(this.#registered, method);
    };
  }

  /** Find the handler of a method; undefined if there is none. */
  find(method) {
    return findIn(this.#registered, method)?.handler;
  }

  /** Write, for a failure, the names of all methods: as many as the host's limits allow, or none. */
  known(limits) {
    const names = [];
    forEachIn(this.#registered, (_, method) => {
      if (names.length < MOST_KNOWN) push(names, method);
    });
    try {
      return encodePayload({ known: sort(names) }, limits);
    } catch {
      return '{"known":[]}';
    }
  }
}

function checkName(method, isNamed) {
  if (typeof method !== "string") throw new TypeError(`the name of a method must be a string, not ${typeof method}`);
  if (method === "") {
    throw new TypeError(`${isNamed ? "the name is empty" : "the function has no name"}: write onCall("name", handler)`);
  }
  if (!isWellFormed(method)) throw new TypeError("the name of a method has a lone surrogate");
  if (byteLength(method) > NAME_BYTES) {
    throw new RangeError(`the name of a method has more than ${NAME_BYTES} bytes: ${cut(method, 0, 40)}...`);
  }
}
