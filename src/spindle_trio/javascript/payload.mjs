// The JSON-safe check: one walk over a value before it is sent. `spindle_trio/_payload.py` is its twin.
//
// JSON-safe are null, booleans, finite numbers, strings without lone surrogates, and arrays and plain objects of those.
// A property that is undefined is left out, as JSON does; anything else is refused, and the error names its path.

const SMALLEST_INTEGER = -(2 ** 63);
const BEYOND_INTEGERS = 2 ** 64;

/** From here on JSON writes a number with an exponent, and nobody takes it for an integer. */
const FIRST_WITH_EXPONENT = 1e21;

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
  try {
    new Walk(limits).visit(value, 0);
  } catch (error) {
    if (!(error instanceof Unsafe)) throw error;
    throw new PayloadError(`${name}${error.path}: ${error.problem}`);
  }
  const text = JSON.stringify(value);
  if (text.length * 3 > limits.frameBytes) {
    const size = Buffer.byteLength(text);
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

  visit(value, depth) {
    this.valuesLeft -= 1;
    if (this.valuesLeft < 0) throw new Unsafe(`more than ${this.limits.values} values in all`);
    if (depth > this.limits.depth) {
      throw new Unsafe(`nested more than ${this.limits.depth} deep (does it contain itself?)`);
    }
    switch (typeof value) {
      case "string":
        this.visitText(value);
        return;
      case "number":
        if (!Number.isFinite(value)) throw new Unsafe(`${value} is not JSON-safe`);
        if (
          (value >= BEYOND_INTEGERS || value < SMALLEST_INTEGER) &&
          Math.abs(value) < FIRST_WITH_EXPONENT
        ) {
          throw new Unsafe("the integer is outside -2^63…2^64-1");
        }
        return;
      case "boolean":
        return;
      case "object":
        if (value === null) return;
        if (Array.isArray(value)) this.visitArray(value, depth + 1);
        else this.visitObject(value, depth + 1);
        return;
      default:
        throw new Unsafe(`${typeof value} is not JSON-safe`);
    }
  }

  visitText(text) {
    if (!text.isWellFormed()) throw new Unsafe("the text has a lone surrogate");
    if (this.textLeft !== null) {
      this.textLeft -= Buffer.byteLength(text);
      if (this.textLeft < 0) throw new Unsafe(`more than ${this.limits.textBytes} bytes of text in all`);
    }
  }

  visitArray(items, depth) {
    this.checkEntries(items.length);
    for (let index = 0; index < items.length; index += 1) {
      try {
        this.visit(items[index], depth);
      } catch (error) {
        throw under(error, `[${index}]`);
      }
    }
  }

  visitObject(object, depth) {
    const prototype = Object.getPrototypeOf(object);
    if (prototype !== null && prototype !== Object.prototype && Object.getPrototypeOf(prototype) !== null) {
      throw new Unsafe(`${nameOf(prototype)} is not JSON-safe`);
    }
    const names = Object.keys(object);
    this.checkEntries(names.length);
    for (const name of names) {
      const value = object[name];
      if (value === undefined) continue;
      try {
        this.visitText(name);
        this.visit(value, depth);
      } catch (error) {
        throw under(error, NAME.test(name) ? `.${name}` : `[${shortened(name)}]`);
      }
    }
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
  const shown = JSON.stringify(name);
  return shown.length <= 40 ? shown : `${shown.slice(0, 37)}...`;
}
