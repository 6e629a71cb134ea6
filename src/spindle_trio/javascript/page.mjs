// The page of memory that a process shares with its host: two native doubles. It needs no frames and no event loop.

import { monotonic, readSync, writeSync } from "./intrinsics.mjs";

/** Where the host marks a stop request. The time of the last heartbeat lies before it. */
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

  /** Whether the host has requested a stop. It marks the page before it sends the frame. */
  stopIsRequested() {
    readSync(this.#fd, this.#word, 0, this.#word.byteLength, STOP_OFFSET);
    return this.#word[0] !== 0;
  }
}

/** Seconds between two heartbeat frames, at least. */
const PAUSE = 0.01;

/** Beats by frames. In Bun each process has a clock of its own, which means nothing to the host. */
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
