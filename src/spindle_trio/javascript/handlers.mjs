// Handlers that an entry has registered. They are called in order of registration; one that throws stops no other.

import { TypeError, push, slice, splice } from "./intrinsics.mjs";

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
