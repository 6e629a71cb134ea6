// The JSON-safe check: one walk over a value before it is sent. `spindle_trio/_protocol/_payload.py` is its twin.
//
// JSON-safe are null, booleans, finite numbers, strings without lone surrogates, and arrays and plain objects of those.
// As in JSON, undefined properties are left out, and undefined items become null. Dates and bytes have a form of their
// own (notes/protocol.md). Anything else is refused, and the error names its path.
//
// The walk reads each value once and writes what it has read. So getters and proxies cannot answer differently the
// second time, and no `toJSON` is called.

import {
  TypeError, byteLength, copyOf, cut, getPrototypeOf, includes, isAnyArrayBuffer, isArray, isDate, isFinite, isView,
  isWellFormed, isoTextOf, keys, matches, objectPrototype, push, stringify, textOf, timeOf, withExponent,
} from "./intrinsics.mjs";

const SMALLEST_INTEGER = -(2 ** 63);
const BEYOND_INTEGERS = 2 ** 64;

/** A body in the tagged form begins with this, and so does the only name of a tag (notes/protocol.md). */
export const TAGGED = "$";

// The first and the last millisecond of the years 1 to 9999, the range of Python's datetime.
const FIRST_TIME = -62_135_596_800_000;
const LAST_TIME = 253_402_300_799_999;

const NAME = /^[A-Za-z_$][\w$]{0,39}$/;

/** A value is not JSON-safe, or over a limit. */
export class PayloadError extends TypeError {
  name = "PayloadError";
  #isOverLimit;

  constructor(message, isOverLimit) {
    super(message);
    this.#isOverLimit = isOverLimit;
  }

  /** Whether the value could be sent if it were smaller. */
  get isOverLimit() {
    return this.#isOverLimit;
  }
}

class Unsafe {
  path = "";
  constructor(problem) {
    this.problem = problem;
  }
}

class OverLimit extends Unsafe {
  within = []; // these containers
  containsItself = false;
}

/** The advice for a payload or result over the host's limit. */
const TOO_LARGE_ADVICE = "raise Limits(frame_bytes=…), or write it to a file and send its path";

const BINARY_ADVICE = "raise Limits(binary_bytes=…), or write them to a file and send its path";

/**
 * Write a value as JSON, or in the tagged form.
 * @param value the value to send
 * @param limits the host's: `frameBytes`, `depth`, `values`, `textBytes`, `containerEntries`
 * @param name what an error calls the outermost value
 * @throws PayloadError names the path, as in `payload.items[3]: Set is not JSON-safe`
 */
export function encodePayload(value, limits, name = "payload") {
  return encode(new Walk(limits), value, limits, name);
}

/**
 * The same for a lane on which bytes may follow: `{ text, raws }`, with the bytes that do, copied, in their order.
 * A host that takes none gets them within the text.
 */
export function encodeWithBytes(value, limits, name = "payload") {
  const walk = limits.binaryBytes > 0 ? new BinaryWalk(limits) : new Walk(limits);
  return { text: encode(walk, value, limits, name), raws: walk.raws };
}

/** The same for what takes no tagged form: dates and bytes are refused. */
export function encodeJson(value, limits, name) {
  return encode(new PlainWalk(limits), value, limits, name);
}

function encode(walk, value, limits, name) {
  let text;
  try {
    text = walk.write(value, 0);
  } catch (error) {
    if (!(error instanceof Unsafe)) throw error;
    const isOverLimit = error instanceof OverLimit && !error.containsItself;
    throw new PayloadError(`${name}${error.path}: ${error.problem}`, isOverLimit);
  }
  if (walk.isTagged) text = TAGGED + text;
  if (text.length * 3 > limits.frameBytes) {
    const size = byteLength(text);
    if (size > limits.frameBytes) {
      const problem = `${size} bytes of JSON, more than ${limits.frameBytes} in one frame`;
      throw new PayloadError(`${name}: ${problem}; ${TOO_LARGE_ADVICE}`, true);
    }
  }
  return text;
}

class Walk {
  isTagged = false;
  raws = []; // bytes that follow the text

  constructor(limits) {
    this.limits = limits;
    this.valuesLeft = limits.values;
    this.textLeft = limits.textBytes ?? null;
  }

  write(value, depth) {
    this.valuesLeft -= 1;
    if (this.valuesLeft < 0) throw new OverLimit(`more than ${this.limits.values} values in all`);
    if (depth > this.limits.depth) {
      throw new OverLimit(`nested more than ${this.limits.depth} deep (does it contain itself?)`);
    }
    switch (typeof value) {
      case "string":
        return this.writeText(value);
      case "number":
        if (!isFinite(value)) throw new Unsafe(`${value} is not JSON-safe`);
        // JavaScript writes only as many digits as it needs, then zeros. That would put this number out of bounds.
        if (value === SMALLEST_INTEGER) return "-9223372036854775808";
        // With an exponent, as JavaScript writes numbers from 1e21 on, it is no integer, and integers have bounds.
        return value >= BEYOND_INTEGERS || value < SMALLEST_INTEGER ? withExponent(value) : `${value}`;
      case "boolean":
        return value ? "true" : "false";
      case "object":
        if (value === null) return "null";
        return isArray(value) ? this.writeArray(value, depth + 1) : this.writeObject(value, depth + 1);
      default:
        throw new Unsafe(`${typeof value} is not JSON-safe`);
    }
  }

  writeText(text) {
    if (!isWellFormed(text)) throw new Unsafe("the text has a lone surrogate");
    if (this.textLeft !== null) this.countText(byteLength(text));
    return stringify(text);
  }

  countText(size) {
    this.textLeft -= size;
    if (this.textLeft < 0) throw new OverLimit(`more than ${this.limits.textBytes} bytes of text in all`);
  }

  writeArray(items, depth) {
    const count = items.length;
    this.checkEntries(count);
    let text = "[";
    for (let index = 0; index < count; index += 1) {
      try {
        const written = this.write(items[index] ?? null, depth);
        text += index === 0 ? written : `,${written}`;
      } catch (error) {
        throw under(error, `[${index}]`, items);
      }
    }
    return `${text}]`;
  }

  writeObject(object, depth) {
    const prototype = getPrototypeOf(object);
    if (prototype !== null && prototype !== objectPrototype && getPrototypeOf(prototype) !== null) {
      return this.writeTagged(object, prototype);
    }
    const names = keys(object);
    const count = names.length;
    this.checkEntries(count);
    let text = "{";
    let written = 0;
    for (let index = 0; index < count; index += 1) {
      const name = names[index];
      try {
        const value = object[name];
        if (value === undefined) continue;
        const property = `${this.writeText(name)}:${this.write(value, depth)}`;
        text += written === 0 ? property : `,${property}`;
        written += 1;
      } catch (error) {
        throw under(error, matches(NAME, name) ? `.${name}` : `[${shortened(name)}]`, object);
      }
    }
    return written === 1 && text[2] === TAGGED ? this.escapeTag(text) : `${text}}`;
  }

  /** Write an object that looks like a tag: one more `$` marks it as none. */
  escapeTag(text) {
    this.isTagged = true;
    return `{"${TAGGED}${cut(text, 2)}}`;
  }

  writeTagged(object, prototype) {
    if (isDate(object)) {
      const time = timeOf(object);
      if (!(time >= FIRST_TIME && time <= LAST_TIME)) {
        throw new Unsafe(isFinite(time) ? "the Date is outside of the years 1 to 9999" : "the Date is no valid time");
      }
      this.isTagged = true;
      return `{"$date":"${isoTextOf(object)}"}`;
    }
    let bytes;
    if (isView(object)) bytes = copyOf(object.buffer, object.byteOffset, object.byteLength);
    else if (isAnyArrayBuffer(object)) bytes = copyOf(object);
    else throw new Unsafe(`${nameOf(prototype)} is not JSON-safe`);
    this.isTagged = true;
    return this.writeBytes(bytes);
  }

  writeBytes(bytes) {
    if (this.textLeft !== null) this.countText(bytes.length);
    return `{"$bytes":"${textOf(bytes, "base64")}"}`;
  }

  checkEntries(count) {
    const limit = this.limits.containerEntries ?? null;
    if (limit !== null && count > limit) throw new OverLimit(`${count} entries, more than ${limit} in one container`);
  }
}

class BinaryWalk extends Walk {
  #left = this.limits.binaryBytes;

  writeBytes(bytes) {
    this.#left -= bytes.length;
    if (this.#left < 0) throw new OverLimit(`more than ${this.limits.binaryBytes} bytes in buffers; ${BINARY_ADVICE}`);
    push(this.raws, copyOf(bytes)); // the entry may change them before they have left
    return `{"$raw":${bytes.length}}`;
  }
}

class PlainWalk extends Walk {
  escapeTag(text) {
    return `${text}}`;
  }

  writeTagged(object, prototype) {
    throw new Unsafe(`${nameOf(prototype)} is not JSON-safe`);
  }
}

/** Add a step within this container to an error's path. */
function under(error, step, container) {
  if (error instanceof Unsafe) error.path = step + error.path;
  if (error instanceof OverLimit) {
    error.containsItself ||= includes(error.within, container);
    push(error.within, container);
  }
  return error;
}

function nameOf(prototype) {
  const maker = prototype.constructor;
  return typeof maker === "function" && maker.name ? maker.name : "an object with a prototype of its own";
}

function shortened(name) {
  const shown = stringify(name);
  return shown.length <= 40 ? shown : `${cut(shown, 0, 37)}...`;
}
