// Built-ins as they were before the entry was loaded. An entry may replace them: with a test double of a timer, a
// patched array method, a `process.exit` that does nothing. The runtime uses these instead.
//
// Methods of prototypes take `this` as their first argument: `push(array, item)`.

import fs from "node:fs";
import process from "node:process";
import timers from "node:timers";
import { types } from "node:util";

const { asyncIterator } = Symbol;
const { bind, call } = Function.prototype;

function withoutThis(method) {
  return bind.call(call, method);
}

export { asyncIterator, process };
export const { Error, Map, Number, Promise, RangeError, SyntaxError, TypeError, queueMicrotask } = globalThis;
export const { floor, max, min } = Math;
export const { isAnyArrayBuffer, isDate, isGeneratorFunction, isGeneratorObject, isNativeError } = types;
export const { isModuleNamespaceObject: isModuleNamespace } = types;
export const { isView } = ArrayBuffer;
export const { parse, stringify } = JSON;
export const { defineProperty, getPrototypeOf, hasOwn, keys, prototype: objectPrototype } = Object;
export const { isArray } = Array;
export const { isFinite, isInteger } = Number;
export const { readSync, writeSync, writevSync } = fs;
export const { clearInterval, clearTimeout, setImmediate, setInterval, setTimeout } = timers;
export const { wait } = Atomics;

export const addTo = withoutThis(Map.prototype.set);
export const findIn = withoutThis(Map.prototype.get);
export const forEachIn = withoutThis(Map.prototype.forEach);
export const removeFrom = withoutThis(Map.prototype.delete);

export const includes = withoutThis(Array.prototype.includes);
export const push = withoutThis(Array.prototype.push);
export const sort = withoutThis(Array.prototype.sort);
export const shift = withoutThis(Array.prototype.shift);
export const slice = withoutThis(Array.prototype.slice);
export const splice = withoutThis(Array.prototype.splice);

export const { allocUnsafe, allocUnsafeSlow: allocBytes, byteLength, concat, from: copyOf } = Buffer;
export const copyInto = withoutThis(Buffer.prototype.copy);
export const subarray = withoutThis(Buffer.prototype.subarray);
export const writeText = withoutThis(Buffer.prototype.write);
export const writeLength = withoutThis(Buffer.prototype.writeUInt32BE);
export const readLength = withoutThis(Buffer.prototype.readUInt32BE);
export const textOf = withoutThis(Buffer.prototype.toString);

export const isoTextOf = withoutThis(Date.prototype.toISOString);
export const timeOf = withoutThis(Date.prototype.getTime);
export const withExponent = withoutThis(Number.prototype.toExponential);

export const matches = withoutThis(RegExp.prototype.test);
export const cut = withoutThis(String.prototype.slice);
export const replaced = withoutThis(String.prototype.replace);
export const trimmed = withoutThis(String.prototype.trim);

// A Node that is too old lacks both, and must still be able to report that.
const { isWellFormed: isWhole, toWellFormed: makeWhole } = String.prototype;
export const isWellFormed = isWhole ? withoutThis(isWhole) : () => true;
export const toWellFormed = makeWhole ? withoutThis(makeWhole) : String;

export const emit = process.emit.bind(process);
export const exit = process.exit.bind(process);
export const kill = process.kill.bind(process);
export const listenerCount = process.listenerCount.bind(process);

const { hrtime } = process;
const { bigint } = hrtime;

/** The system's monotonic clock, in seconds, which the host uses too. */
export function monotonic() {
  return Number(bigint.call(hrtime)) / 1e9;
}
