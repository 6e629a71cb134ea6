// One end of a lane: incoming and outgoing frames.
//
// A frame is four bytes of length, big-endian, and a body in JSON (notes/protocol.md). Each call writes its own frame,
// since the entry may never yield again. Only what the system does not take waits, in order, and a timer tries it
// again. The event loop reads incoming frames.

import net from "node:net";

import { Gathering, TAGGED_BYTE, framesOf } from "./bytes.mjs";
import {
  RangeError, allocUnsafe, byteLength, concat, copyOf, monotonic, parse, process, push, readLength, setTimeout, slice,
  splice, subarray, textOf, wait, writeLength, writeSync, writeText, writevSync,
} from "./intrinsics.mjs";

const HEADER_BYTES = 4;

/** Bytes to read at once. */
const READ_BYTES = 64 * 1024;

/** The size of the buffer in which short frames are put together. */
const SCRATCH_BYTES = 64 * 1024;

/** Milliseconds between two attempts to write: at first, and at most while the system takes nothing. */
const RETRY_MS = 1;
const LONGEST_RETRY_MS = 16;

/**
 * Seconds that a call keeps writing a frame that the system took in part. So a host that is only a little behind gets
 * the whole frame, even if the entry does not yield for long. The rest of a message may take any time.
 */
const FRAME_PATIENCE = 0.1;

/** How many frames to write at once; the system takes at most 1 024. */
const FRAMES_AT_ONCE = 256;

/** How many more calls the stack must allow before a frame is sent; sending needs far fewer. */
const CALLS = 200;

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Throw if the stack is nearly used up, as by endless recursion: now, not halfway through a frame. */
function expectRoom(calls) {
  if (calls > 0) expectRoom(calls - 1);
}

/** Open a descriptor for reading, which makes it non-blocking. `takeIn` gets chunks in a buffer that is reused. */
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

/** Read a body that is JSON. */
function readJson(body) {
  if (body[0] === TAGGED_BYTE) return new Gathering(textOf(body, "utf8", 1), (value) => value);
  return parse(textOf(body, "utf8"));
}

/** Read a body whose first byte is its kind. */
export function readWithKind(body) {
  const kind = textOf(body, "latin1", 0, 1);
  if (body[1] === TAGGED_BYTE) return new Gathering(textOf(body, "utf8", 2), (frame) => ({ kind, frame }));
  return { kind, frame: parse(textOf(body, "utf8", 1)) };
}

export class Lane {
  #fd;
  #socket;
  #onBody;
  #onHostGone;
  #read;
  #scratch = allocUnsafe(SCRATCH_BYTES);
  #length = 0; // of the last frame put together, with its header
  #waiting = []; // frames that the system has not taken yet, from `#first` on
  #first = 0;
  #timer = null;
  #pokeAfter = -Infinity;
  #parts = [];
  #have = 0;
  #need = HEADER_BYTES;
  #bodyFollows = false;
  #gathering = null; // a value whose bytes follow
  #isBroken = false;

  /** How many frames `push` has taken. */
  sent = 0;

  /**
   * @param fd the socket
   * @param onBody called with each incoming body, decoded
   * @param onHostGone called when the other end is gone
   * @param read decodes a body
   */
  constructor(fd, onBody, onHostGone, read = readJson) {
    this.#fd = fd;
    this.#onBody = onBody;
    this.#onHostGone = onHostGone;
    this.#read = read;
    this.#socket = openSocket(fd, (chunk) => this.#takeIn(chunk));
    this.#socket.on("error", () => this.#lose());
    this.#socket.on("end", () => this.#lose());
    this.#socket.pause();
  }

  /** Read from now on. */
  resume() {
    this.#socket.resume();
  }

  /** Stop reading for now: incoming frames wait in the system, and then in the host. */
  pause() {
    this.#socket.pause();
  }

  /** Keep the process alive while this lane is open for reading. */
  ref() {
    this.#socket.ref();
  }

  /** Let the event loop end although this lane is open for reading. */
  unref() {
    this.#socket.unref();
  }

  /** Send a body. When this returns, the system has it, unless the system takes no more for now. */
  push(text) {
    // Most frames leave at once, by one call. If the stack overflows there, the frame has not left and does not count.
    // Anything that takes more calls needs room on the stack beforehand.
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

  /** Send a body and the bytes that follow it, in frames of at most so many bytes: as `push`, but from the queue. */
  pushWithBytes(text, raws, maxBytes) {
    expectRoom(CALLS);
    const frames = framesOf(raws, maxBytes);
    const frame = this.#frame(text);
    push(this.#waiting, copyOf(subarray(frame, 0, this.#length)));
    for (let index = 0; index < frames.length; index += 1) push(this.#waiting, frames[index]);
    this.sent += 1;
    this.flush(FRAME_PATIENCE);
    this.#tryAgain(RETRY_MS);
  }

  /** Write what waits, at most once in RETRY_MS: for an entry that sends or beats without yielding to the timer. */
  poke() {
    if (this.#waiting.length === 0 || monotonic() < this.#pokeAfter) return;
    this.#writeWaiting();
    this.#pokeAfter = monotonic() + RETRY_MS / 1000;
  }

  /**
   * Write what waits, without yielding.
   * @param patience seconds after which the rest keeps waiting
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

  /** Put a body behind its header in a buffer, and set `#length`. */
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

  /** Write as much of what waits as the system takes, and return the number of bytes. */
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

  /** Drop the frames that are written. */
  #forget() {
    splice(this.#waiting, 0, this.#first);
    this.#first = 0;
  }

  /** Write a frame, and return how many of its bytes the system has taken. */
  #writeOne(frame, length) {
    if (this.#isBroken) return Infinity;
    try {
      return writeSync(this.#fd, frame, 0, length);
    } catch (error) {
      return this.#taken(error);
    }
  }

  /** Do the same with several frames. */
  #write(frames) {
    if (frames.length === 1) return this.#writeOne(frames[0], frames[0].length);
    if (this.#isBroken) return Infinity;
    try {
      return writevSync(this.#fd, frames);
    } catch (error) {
      return this.#taken(error);
    }
  }

  /** How many bytes count as taken after an error. */
  #taken(error) {
    if (error.code === "EAGAIN") return 0;
    if (error instanceof RangeError) throw error; // the stack is used up: nothing has been written
    this.#isBroken = true; // the host is gone or has closed this lane; the end of the control lane ends the process
    return Infinity;
  }

  #lose() {
    this.#isBroken = true;
    this.#onHostGone();
  }

  #takeBody(body) {
    const gathering = this.#gathering;
    if (gathering === null) {
      const value = this.#read(body);
      if (!(value instanceof Gathering)) this.#onBody(value);
      else if (value.left === 0) this.#onBody(value.value);
      else this.#gathering = value;
    } else if (gathering.add(body)) {
      this.#gathering = null;
      this.#onBody(gathering.value);
    }
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
        this.#takeBody(whole);
      } else {
        this.#need = readLength(whole, 0);
        this.#bodyFollows = true;
      }
    }
  }
}
