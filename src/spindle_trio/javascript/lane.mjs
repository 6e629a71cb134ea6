// One end of a lane: frames that come in, and frames that go out.
//
// A frame is four bytes of length, big-endian, and a body in JSON (notes/protocol.md). What goes out is written by the
// call that says it, since whoever says something may never yield again; only what the system does not take waits, in
// order, and is tried again by a timer. What comes in is read by the event loop.

import net from "node:net";

import {
  RangeError, allocUnsafe, byteLength, concat, copyOf, monotonic, parse, process, push, readLength, setTimeout, slice,
  splice, subarray, textOf, wait, writeLength, writeSync, writeText, writevSync,
} from "./intrinsics.mjs";

const HEADER_BYTES = 4;

/** How much is read at once. */
const READ_BYTES = 64 * 1024;

/** How much is put together in one place before it is written. */
const SCRATCH_BYTES = 64 * 1024;

/** Milliseconds until what the system has not taken is tried again; and at most, where it goes on taking nothing. */
const RETRY_MS = 1;
const LONGEST_RETRY_MS = 16;

/**
 * Seconds that a call waits for a frame that has been written in part: a host that is only a little behind then has it
 * whole, although the entry may not yield for long. The rest of a message may take any time.
 */
const FRAME_PATIENCE = 0.1;

/** How many frames are written at once; the system takes no more than 1 024. */
const FRAMES_AT_ONCE = 256;

/** How many calls deep the stack must still be for a frame to be sent: more than that takes, by far. */
const CALLS = 200;

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Throw now if the stack is nearly used up, as by a recursion without end, and not halfway through a frame. */
function expectRoom(calls) {
  if (calls > 0) expectRoom(calls - 1);
}

/** Open a descriptor for reading, which makes it one that never blocks. What comes is in a buffer that is used again. */
function openSocket(fd, takeIn) {
  if (process.versions.bun !== undefined) {
    return net.connect({ fd, allowHalfOpen: true }).on("data", takeIn); // which Node refuses
  }
  const buffer = allocUnsafe(READ_BYTES);
  const callback = (count) => {
    takeIn(subarray(buffer, 0, count));
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
  #scratch = allocUnsafe(SCRATCH_BYTES);
  #length = 0; // of the frame that was written last, with its header
  #waiting = []; // frames, from the first one on that is not yet with the system
  #first = 0;
  #timer = null;
  #pokeAfter = -Infinity;
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

  /** Keep the process alive as long as this is read. */
  ref() {
    this.#socket.ref();
  }

  /** Let the event loop end although this is read. */
  unref() {
    this.#socket.unref();
  }

  /** Send a body; when this returns, it is with the system, unless earlier ones still wait. */
  push(text) {
    // Most frames leave at once. Should the stack end in this, as in a recursion without end, then before the frame has
    // left, and it does not count; for whatever takes longer than one call there has to be room beforehand.
    const mayLeave = this.#waiting.length === 0;
    if (!mayLeave) expectRoom(CALLS);
    const frame = this.#frame(text);
    const length = this.#length;
    const taken = mayLeave ? this.#writeOne(frame, length) : 0;
    this.sent += 1;
    if (taken >= length) return;
    push(this.#waiting, copyOf(subarray(frame, taken, length)));
    if (!mayLeave) {
      this.poke();
      return;
    }
    if (taken > 0) this.flush(FRAME_PATIENCE);
    this.#tryAgain(RETRY_MS);
  }

  /** Try now and then to write what waits: for whoever goes on speaking or beating, and does not yield to the timer. */
  poke() {
    if (this.#waiting.length === 0 || monotonic() < this.#pokeAfter) return;
    this.#writeWaiting();
    this.#pokeAfter = monotonic() + RETRY_MS / 1000;
  }

  /**
   * Write what waits, without yielding.
   * @param patience seconds after which the rest goes on waiting
   * @param beat called before each pause
   */
  flush(patience = Infinity, beat = () => {}) {
    const end = monotonic() + patience;
    for (;;) {
      this.#writeWaiting();
      if (this.#waiting.length === 0 || monotonic() >= end) return;
      beat();
      wait(sleeper, 0, 0, RETRY_MS);
    }
  }

  /** Write a body with its header into a buffer, and note how long that is. */
  #frame(text) {
    // No character takes more than three bytes.
    const isShort = text.length * 3 + HEADER_BYTES <= SCRATCH_BYTES;
    const frame = isShort ? this.#scratch : allocUnsafe(HEADER_BYTES + byteLength(text));
    const size = writeText(frame, text, HEADER_BYTES);
    writeLength(frame, size, 0);
    this.#length = HEADER_BYTES + size;
    return frame;
  }

  #tryAgain(delay) {
    if (this.#timer !== null || this.#waiting.length === 0) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      const taken = this.#writeWaiting();
      this.#tryAgain(taken > 0 ? RETRY_MS : delay < LONGEST_RETRY_MS ? 2 * delay : delay);
    }, delay);
  }

  /** Write of what waits what the system takes, and tell how many bytes that was. */
  #writeWaiting() {
    let written = 0;
    while (this.#first < this.#waiting.length) {
      const frames = slice(this.#waiting, this.#first, this.#first + FRAMES_AT_ONCE);
      let taken = this.#write(frames);
      written += taken;
      let index = 0;
      while (index < frames.length && taken >= frames[index].length) {
        taken -= frames[index].length;
        index += 1;
      }
      this.#first += index;
      if (index === frames.length) continue;
      this.#waiting[this.#first] = subarray(frames[index], taken);
      if (this.#first >= FRAMES_AT_ONCE) this.#forget();
      return written;
    }
    this.#forget();
    return written;
  }

  /** Let go of the frames that are written. */
  #forget() {
    splice(this.#waiting, 0, this.#first);
    this.#first = 0;
  }

  /** Write a frame, and tell how many of its bytes the system has taken. */
  #writeOne(frame, length) {
    if (this.#isBroken) return Infinity;
    try {
      return writeSync(this.#fd, frame, 0, length);
    } catch (error) {
      return this.#taken(error);
    }
  }

  /** Do the same with several. */
  #write(frames) {
    if (frames.length === 1) return this.#writeOne(frames[0], frames[0].length);
    if (this.#isBroken) return Infinity;
    try {
      return writevSync(this.#fd, frames);
    } catch (error) {
      return this.#taken(error);
    }
  }

  /** Tell how much was taken where the system has refused. */
  #taken(error) {
    if (error.code === "EAGAIN") return 0;
    if (error instanceof RangeError) throw error; // the end of the stack: nothing has been written
    this.#isBroken = true; // the host is gone, or wants nothing more of this; the control lane's end tells
    return Infinity;
  }

  #lose() {
    this.#isBroken = true;
    this.#onHostGone();
  }

  #takeIn(chunk) {
    let offset = 0;
    while (offset < chunk.length) {
      const part = subarray(chunk, offset, offset + this.#need - this.#have);
      offset += part.length;
      this.#have += part.length;
      if (this.#have < this.#need) {
        push(this.#parts, copyOf(part));
        return;
      }
      push(this.#parts, part);
      const whole = this.#parts.length === 1 ? part : concat(this.#parts);
      this.#parts = [];
      this.#have = 0;
      if (this.#bodyFollows) {
        this.#need = HEADER_BYTES;
        this.#bodyFollows = false;
        this.#onBody(parse(textOf(whole, "utf8")));
      } else {
        this.#need = readLength(whole, 0);
        this.#bodyFollows = true;
      }
    }
  }
}
