// The JSON-safe check: one walk over a value before it is sent. `spindle_trio/_protocol/_payload.py` is its twin.
//
// JSON-safe are null, booleans, finite numbers, strings without lone surrogates, and arrays and plain objects of those.
// A property that is undefined is left out, as JSON does; anything else is refused, and the error names its path.
//
// The walk looks at each value once, and what it has looked at is what it writes: a getter or a proxy that would say
// something else the second time is not asked again, and nobody's `toJSON` is.

import {
  TypeError, byteLength, cut, getPrototypeOf, isArray, isFinite, isWellFormed, keys, matches, objectPrototype,
  stringify, withExponent,
} from "./intrinsics.mjs";

const SMALLEST_INTEGER = -(2 ** 63);
const BEYOND_INTEGERS = 2 ** 64;

const NAME = /^[A-Za-z_$][\w$]{0,39}$/;

/** A value is not JSON-safe, or over a limit. */
export class PayloadError extends TypeError {
  name = "PayloadError";
}

class Unsafe {
  path = "";
  constructor(problem) {
    this.problem = problem;
  }
}

/**
 * Write a value as JSON.
 * @param value what somebody wants to send
 * @param limits those of the host: `frameBytes`, `depth`, `values`, `textBytes`, `containerEntries`
 * @param name what an error calls the outermost value
 * @throws PayloadError names the path, as in `payload.items[3]: Set is not JSON-safe`
 */
export function encodePayload(value, limits, name = "payload") {
  let text;
  try {
    text = new Walk(limits).write(value, 0);
  } catch (error) {
    if (!(error instanceof Unsafe)) throw error;
    throw new PayloadError(`${name}${error.path}: ${error.problem}`);
  }
  if (text.length * 3 > limits.frameBytes) {
    const size = byteLength(text);
    if (size > limits.frameBytes) {
      throw new PayloadError(`${name}: ${size} bytes of JSON, more than ${limits.frameBytes}`);
    }
  }
  return text;
}

class Walk {
  constructor(limits) {
    this.limits = limits;
    this.valuesLeft = limits.values;
    this.textLeft = limits.textBytes ?? null;
  }

  write(value, depth) {
    this.valuesLeft -= 1;
    if (this.valuesLeft < 0) throw new Unsafe(`more than ${this.limits.values} values in all`);
    if (depth > this.limits.depth) {
      throw new Unsafe(`nested more than ${this.limits.depth} deep (does it contain itself?)`);
    }
    switch (typeof value) {
      case "string":
        return this.writeText(value);
      case "number":
        if (!isFinite(value)) throw new Unsafe(`${value} is not JSON-safe`);
        // Digits are written until they tell numbers apart, then zeros: of this one they would make one out of bounds.
        if (value === SMALLEST_INTEGER) return "-9223372036854775808";
        // With an exponent, as JavaScript writes those from 1e21 on, nobody takes it for an integer, which has bounds.
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
    if (this.textLeft !== null) {
      this.textLeft -= byteLength(text);
      if (this.textLeft < 0) throw new Unsafe(`more than ${this.limits.textBytes} bytes of text in all`);
    }
    return stringify(text);
  }

  writeArray(items, depth) {
    const count = items.length;
    this.checkEntries(count);
    let text = "[";
    for (let index = 0; index < count; index += 1) {
      try {
        const written = this.write(items[index], depth);
        text += index === 0 ? written : `,${written}`;
      } catch (error) {
        throw under(error, `[${index}]`);
      }
    }
    return `${text}]`;
  }

  writeObject(object, depth) {
    const prototype = getPrototypeOf(object);
    if (prototype !== null && prototype !== objectPrototype && getPrototypeOf(prototype) !== null) {
      throw new Unsafe(`${nameOf(prototype)} is not JSON-safe`);
    }
    const names = keys(object);
    const count = names.length;
    this.checkEntries(count);
    let text = "{";
    for (let index = 0; index < count; index += 1) {
      const name = names[index];
      try {
        const value = object[name];
        if (value === undefined) continue;
        const written = `${this.writeText(name)}:${this.write(value, depth)}`;
        text += text.length === 1 ? written : `,${written}`;
      } catch (error) {
        throw under(error, matches(NAME, name) ? `.${name}` : `[${shortened(name)}]`);
      }
    }
    return `${text}}`;
  }

  checkEntries(count) {
    const limit = this.limits.containerEntries ?? null;
    if (limit !== null && count > limit) throw new Unsafe(`${count} entries, more than ${limit} in one container`);
  }
}

function under(error, step) {
  if (error instanceof Unsafe) error.path = step + error.path;
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
