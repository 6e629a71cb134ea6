// One end of a lane: frames that come in, and frames that go out.
//
// A frame is four bytes of length, big-endian, and a body in JSON (notes/protocol.md). What goes out is written by the
// call that says it, since whoever says something may never yield again; only what the system does not take waits, in
// order, and is tried again by a timer. What comes in is read by the event loop.

import fs from "node:fs";
import net from "node:net";

const HEADER_BYTES = 4;

/** How much is read at once. */
const READ_BYTES = 64 * 1024;

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

/** Bytes that begin to wait between two attempts of calls that do not yield. */
const BYTES_AT_ONCE = 64 * 1024;

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Wait without yielding to anything. */
function pause(milliseconds) {
  Atomics.wait(sleeper, 0, 0, milliseconds);
}

/** Open a descriptor for reading; it becomes one that never blocks. What comes is given on in a buffer that is used again. */
function openSocket(fd, takeIn) {
  if (process.versions.bun !== undefined) {
    const socket = net.connect({ fd, allowHalfOpen: true }); // which Node refuses
    return socket.on("data", takeIn);
  }
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  const callback = (count) => {
    takeIn(buffer.subarray(0, count));
    return true;
  };
  const options = { readable: true, writable: false, pauseOnCreate: true, allowHalfOpen: true };
  return new net.Socket({ fd, ...options, onread: { buffer, callback } });
}

export class Lane {
  #fd;
  #socket;
  #onBody;
  #onHostGone;
  #scratch = Buffer.allocUnsafe(SCRATCH_BYTES);
  #waiting = []; // frames, of which those before #next have been written
  #next = 0;
  #untried = 0; // bytes that have begun to wait since the last attempt
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
    this.#socket = openSocket(fd, (chunk) => this.#takeIn(chunk));
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
    if (this.#waits()) {
      this.#waiting.push(Buffer.from(frame));
      this.#untried += frame.length;
      if (this.#untried >= BYTES_AT_ONCE) this.#writeWaiting();
      return;
    }
    const written = this.#write([frame]);
    if (written === frame.length) return;
    this.#waiting = [Buffer.from(frame.subarray(written))];
    this.#next = 0;
    if (written > 0) this.flush(FRAME_PATIENCE_MS);
    this.#tryAgainSoon();
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

  #waits() {
    return this.#next < this.#waiting.length;
  }

  /** Write what waits, as far as the system takes it, and tell whether something still does. */
  #writeWaiting() {
    this.#untried = 0;
    while (this.#waits()) {
      const batch = this.#waiting.slice(this.#next, this.#next + FRAMES_AT_ONCE);
      let written = this.#write(batch);
      let whole = 0;
      while (whole < batch.length && written >= batch[whole].length) {
        written -= batch[whole].length;
        whole += 1;
      }
      this.#waiting.fill(undefined, this.#next, this.#next + whole);
      this.#next += whole;
      if (whole < batch.length) {
        this.#waiting[this.#next] = batch[whole].subarray(written);
        return true;
      }
    }
    this.#waiting = [];
    this.#next = 0;
    return false;
  }

  #tryAgainSoon() {
    if (this.#timer !== null || !this.#waits()) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#writeWaiting();
      this.#tryAgainSoon();
    }, RETRY_MS);
  }

  /** Write frames, and return how many bytes the system has taken. */
  #write(frames) {
    const all = () => frames.reduce((sum, frame) => sum + frame.length, 0);
    if (this.#isBroken) return all();
    try {
      return frames.length === 1 ? fs.writeSync(this.#fd, frames[0]) : fs.writevSync(this.#fd, frames);
    } catch (error) {
      if (error.code === "EAGAIN") return 0;
      this.#isBroken = true; // the host is gone, or wants nothing more of this; the control lane's end tells
      return all();
    }
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
      if (this.#have < this.#need) {
        this.#parts.push(Buffer.from(part));
        return;
      }
      this.#parts.push(part);
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
