// Bytes that follow a frame (notes/protocol.md, "Bytes out of band").

import {
  Number, allocBytes, concat, copyInto, cut, defineProperty, isArray, keys, min, parse, push, replaced, subarray,
  writeLength,
} from "./intrinsics.mjs";

/** The first byte of a body in the tagged form. */
export const TAGGED_BYTE = 36;

/** Bytes before the piece in the body of a frame behind it: its kind. */
const KIND_BYTES = 1;
const KIND = 5;

/** Bytes in one of these frames, at most, and in the header of any. */
const PIECE_BYTES = 128 * 1024;
const HEADER_BYTES = 4;

/** Write bytes as frames, with their headers; each body has at most so many bytes. */
export function framesOf(raws, maxBytes) {
  const room = min(PIECE_BYTES, maxBytes) - KIND_BYTES;
  const frames = [];
  let total = 0;
  for (let index = 0; index < raws.length; index += 1) total += raws[index].length;
  const parts = total <= room ? [concat(raws)] : raws;
  for (let index = 0; index < parts.length; index += 1) {
    for (let begin = 0; begin < parts[index].length; begin += room) {
      const piece = subarray(parts[index], begin, begin + room);
      const frame = allocBytes(HEADER_BYTES + KIND_BYTES + piece.length);
      writeLength(frame, KIND_BYTES + piece.length, 0);
      frame[HEADER_BYTES] = KIND;
      copyInto(piece, frame, HEADER_BYTES + KIND_BYTES);
      push(frames, frame);
    }
  }
  return frames;
}

/** The host writes the tag in this form alone. No text can hold it: there its quotes would be escaped. */
const RAW = /\{"\$raw":(\d+)\}/g;

/** A value whose bytes are still to come. */
export class Gathering {
  #outermost;
  #finish;
  #buffers = []; // in the order of the text
  #next = 0;
  #filled = 0; // of the next one

  /** How many bytes are still to come. */
  left = 0;

  /**
   * @param text the JSON behind the sign of the tagged form
   * @param finish makes of the value what the lane hands on
   */
  constructor(text, finish) {
    // Numbered by their order in the text, since objects have names that are integers in an order of their own.
    const numbered = replaced(text, RAW, (_, size) => {
      this.left += Number(size);
      push(this.#buffers, allocBytes(Number(size)));
      return `{"$raw":${this.#buffers.length - 1}}`;
    });
    this.#outermost = [parse(numbered)];
    this.#finish = finish;
    untag(this.#outermost, this.#buffers);
  }

  get value() {
    return this.#finish(this.#outermost[0]);
  }

  /** Take in the body of a frame, and say whether nothing is left to come. */
  add(body) {
    let at = KIND_BYTES;
    while (at < body.length && this.#next < this.#buffers.length) {
      const buffer = this.#buffers[this.#next];
      const count = copyInto(body, buffer, this.#filled, at);
      at += count;
      this.left -= count;
      this.#filled += count;
      if (this.#filled < buffer.length) break;
      this.#next += 1;
      this.#filled = 0;
    }
    return this.left === 0;
  }
}

/** Put buffers in the places of their tags, and take one `$` from names that have two. */
function untag(owner, buffers) {
  const names = keys(owner);
  for (let index = 0; index < names.length; index += 1) {
    const item = owner[names[index]];
    if (item === null || typeof item !== "object") continue;
    const own = isArray(item) ? [] : keys(item);
    if (own.length !== 1 || own[0][0] !== "$") {
      untag(item, buffers);
    } else if (own[0] === "$raw") {
      put(owner, names[index], buffers[item.$raw]);
    } else {
      const plain = {};
      put(plain, cut(own[0], 1), item[own[0]]);
      put(owner, names[index], plain);
      untag(plain, buffers);
    }
  }
}

/** Set a property, whatever its name is. */
function put(owner, name, value) {
  defineProperty(owner, name, { value, writable: true, enumerable: true, configurable: true });
}
