// One end of a lane: frames that come in, and frames that go out.
//
// A frame is four bytes of length, big-endian, and a body in JSON (notes/protocol.md). What goes out is written by the
// call that says it, since whoever says something may never yield again; only what the system does not take waits, in
// order, and is tried again by a timer. What comes in is read by the event loop.

import fs from "node:fs";
import net from "node:net";

const HEADER_BYTES = 4;

/** How much is put together in one place before it is written. */
const SCRATCH_BYTES = 64 * 1024;

/** Milliseconds between two attempts to write while the system takes nothing. */
const RETRY_MS = 1;

/**
 * Milliseconds that a call waits for a frame that has been written in part. The host gives up a frame that is not whole
 * within its patience, and who has begun one may not yield for longer than that.
 */
const FRAME_PATIENCE_MS = 100;

/** How many frames are written at once; the system takes no more than 1 024. */
const FRAMES_AT_ONCE = 256;

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Wait without yielding to anything. */
function pause(milliseconds) {
  Atomics.wait(sleeper, 0, 0, milliseconds);
}

export class Lane {
  #fd;
  #socket;
  #onBody;
  #onHostGone;
  #scratch = Buffer.allocUnsafe(SCRATCH_BYTES);
  #waiting = [];
  #timer = null;
  #parts = [];
  #have = 0;
  #need = HEADER_BYTES;
  #bodyFollows = false;
  #isBroken = false;

  /** How many frames have been given to it to send. */
  sent = 0;

  /**
   * @param fd the socket
   * @param onBody called with each body that has come, decoded
   * @param onHostGone called when the other end is gone
   */
  constructor(fd, onBody, onHostGone) {
    this.#fd = fd;
    this.#onBody = onBody;
    this.#onHostGone = onHostGone;
    // It also makes the descriptor one that never blocks.
    this.#socket = new net.Socket({ fd, readable: true, writable: false, pauseOnCreate: true, allowHalfOpen: true });
    this.#socket.on("data", (chunk) => this.#takeIn(chunk));
    this.#socket.on("error", () => this.#lose());
    this.#socket.on("end", () => this.#lose());
    this.#socket.pause();
  }

  /** Read from now on. */
  resume() {
    this.#socket.resume();
  }

  /** Read no more for now: what comes waits in the system, and then at the host. */
  pause() {
    this.#socket.pause();
  }

  /** Send a body; when this returns, it is with the system, unless earlier ones still wait. */
  push(text) {
    this.sent += 1;
    const frame = this.#frame(text);
    if (this.#waiting.length > 0) {
      this.#waiting.push(Buffer.from(frame));
      return;
    }
    const left = this.#write([frame]);
    if (left.length > 0) {
      const isBegun = left[0].length < frame.length;
      this.#waiting = [Buffer.from(left[0])];
      if (isBegun) this.flush(FRAME_PATIENCE_MS);
      this.#tryAgainSoon();
    }
  }

  /**
   * Write what waits, without yielding.
   * @param patience milliseconds after which the rest goes on waiting
   * @param beat called before each pause
   */
  flush(patience = Infinity, beat = () => {}) {
    const end = performance.now() + patience;
    while (this.#writeWaiting() && performance.now() < end) {
      beat();
      pause(RETRY_MS);
    }
  }

  #frame(text) {
    // No character takes more than three bytes.
    if (text.length * 3 + HEADER_BYTES <= SCRATCH_BYTES) {
      const size = this.#scratch.write(text, HEADER_BYTES);
      this.#scratch.writeUInt32BE(size, 0);
      return this.#scratch.subarray(0, HEADER_BYTES + size);
    }
    const size = Buffer.byteLength(text);
    const frame = Buffer.allocUnsafe(HEADER_BYTES + size);
    frame.writeUInt32BE(size, 0);
    frame.write(text, HEADER_BYTES);
    return frame;
  }

  /** Write what waits, and tell whether something still does. */
  #writeWaiting() {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.slice(0, FRAMES_AT_ONCE);
      const left = this.#write(batch);
      this.#waiting = [...left, ...this.#waiting.slice(FRAMES_AT_ONCE)];
      if (left.length > 0) return true;
    }
    return false;
  }

  #tryAgainSoon() {
    if (this.#timer !== null || this.#waiting.length === 0) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#writeWaiting();
      this.#tryAgainSoon();
    }, RETRY_MS);
  }

  /** Write frames, and return what the system has not taken. */
  #write(frames) {
    if (this.#isBroken) return [];
    let written = 0;
    try {
      written = frames.length === 1 ? fs.writeSync(this.#fd, frames[0]) : fs.writevSync(this.#fd, frames);
    } catch (error) {
      if (error.code !== "EAGAIN") {
        this.#isBroken = true; // the host is gone, or wants nothing more of this; the control lane's end tells
        return [];
      }
    }
    let index = 0;
    while (index < frames.length && written >= frames[index].length) {
      written -= frames[index].length;
      index += 1;
    }
    return index === frames.length ? [] : [frames[index].subarray(written), ...frames.slice(index + 1)];
  }

  #lose() {
    this.#isBroken = true;
    this.#onHostGone();
  }

  #takeIn(chunk) {
    let offset = 0;
    while (offset < chunk.length) {
      const part = chunk.subarray(offset, offset + this.#need - this.#have);
      offset += part.length;
      this.#have += part.length;
      this.#parts.push(part);
      if (this.#have < this.#need) return;
      const whole = this.#parts.length === 1 ? part : Buffer.concat(this.#parts);
      this.#parts = [];
      this.#have = 0;
      if (this.#bodyFollows) {
        this.#need = HEADER_BYTES;
        this.#bodyFollows = false;
        this.#onBody(JSON.parse(whole.toString("utf8")));
      } else {
        this.#need = whole.readUInt32BE(0);
        this.#bodyFollows = true;
      }
    }
  }
}
