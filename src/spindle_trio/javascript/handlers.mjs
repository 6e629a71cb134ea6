// Handlers that an entry has registered: told in order of registration, each by itself.

export class Handlers {
  #registered = [];
  #report;

  /** @param report called with what a handler has thrown */
  constructor(report) {
    this.#report = report;
  }

  get count() {
    return this.#registered.length;
  }

  /** Register a function, and return what takes it back. Registered twice, it counts once. */
  add(handler) {
    if (typeof handler !== "function") throw new TypeError(`a handler must be a function, not ${typeof handler}`);
    let registration = this.#registered.find((other) => other.handler === handler);
    if (registration === undefined) {
      registration = { handler };
      this.#registered.push(registration);
    }
    return () => {
      this.#registered = this.#registered.filter((other) => other !== registration);
    };
  }

  /** Call each; what one throws is reported, and the others still run. */
  tell(value) {
    for (const registration of [...this.#registered]) {
      if (!this.#registered.includes(registration)) continue; // an earlier one has taken it back
      try {
        registration.handler(value);
      } catch (error) {
        this.#report(error);
      }
    }
  }
}
