// The page of memory that a process shares with its host: two native doubles, which need no frame and no event loop.

import { monotonic, readSync, writeSync } from "./intrinsics.mjs";

/** Where the host marks that a stop was requested; before it is the time of the last heartbeat. */
const STOP_OFFSET = 8;

export class Page {
  #fd;
  #word = new Float64Array(1);

  /** @param fd the page, as a file */
  constructor(fd) {
    this.#fd = fd;
  }

  beat() {
    this.#word[0] = monotonic();
    writeSync(this.#fd, this.#word, 0, this.#word.byteLength, 0);
  }

  /** The host marks a request before it sends it. */
  stopIsRequested() {
    readSync(this.#fd, this.#word, 0, this.#word.byteLength, STOP_OFFSET);
    return this.#word[0] !== 0;
  }
}

/** Seconds between two frames that say that a process beats. */
const PAUSE = 0.01;

/** Beats by frames, where the clock of a process says nothing to its host: that of Bun begins with each process. */
export class Pulse {
  #lane;
  #next = -Infinity;

  /** @param lane the control lane */
  constructor(lane) {
    this.#lane = lane;
  }

  beat() {
    if (monotonic() < this.#next) return;
    this.#next = monotonic() + PAUSE;
    this.#lane.push('{"type":"heartbeat"}');
  }
}
