// Loads an entry: finds the function that its module exports, or says what is wrong.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

import { Number, isArray, isGeneratorFunction, isModuleNamespace, keys, stringify } from "./intrinsics.mjs";
import { requireInPlace } from "./place.mjs";

const require = createRequire(import.meta.url);
const { cache: commonJsModules } = require;

const WANTED = "export a function as default, or as run";

const OLDEST_NODE = [20, 19]; // from here on a .js file may be an ES module without a package.json that says so

/** What is wrong with the version of Node; null if nothing is. */
export function tooOld({ bun, node }) {
  const [major, minor] = node.split(".").map(Number);
  const isOld = major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1]);
  if (bun !== undefined || !isOld) return null;
  return `Node ${node} is too old for JavaScript entries: install ${OLDEST_NODE.join(".")} or later`;
}

/** What is wrong with an entry whose import never ends. */
export const NEVER_LOADED =
  "waits for nothing while it is loaded: a top-level await never settles, modules await each other in a circle, " +
  'or a function named "then" is exported';

/** Make what serves calls. It is loaded without waiting, since `onCall` checks what it is given. */
export function openCalls(...how) {
  const { Calls } = require("./calls.mjs");
  return new Calls(...how);
}

/** A module exports nothing that can be called as an entry. The message says what to export. */
export class UnfitModule {
  constructor(message) {
    this.message = message;
  }
}

/**
 * Import a file, and find what to call: `default` if that is a function, else `run`. In a CommonJS module
 * `module.exports` counts as `default`, and may also be an object with one of the two.
 * @param file its path
 * @throws UnfitModule, or whatever the module throws while it loads
 */
export async function loadEntry(file) {
  requireInPlace(file);
  const module = await import(pathToFileURL(file).href);
  if (!isModuleNamespace(module)) {
    throw new UnfitModule(`exports a function named "then", which import() calls: give it another name, and ${WANTED}`);
  }
  const loaded = commonJsModules[file];
  // Bun keeps ES modules there as well, as their namespaces.
  const isCommonJs = loaded !== undefined && !isModuleNamespace(loaded.exports);
  const exported = isCommonJs ? loaded.exports : undefined;
  const found =
    functionIn(module, "default") ??
    functionIn(exported, "default") ??
    functionIn(exported, "run") ??
    functionIn(module, "run");
  if (found === null) {
    const calls = module.calls ?? exported?.calls;
    if (calls === undefined) throw new UnfitModule(whatIsWrong(module));
    return entryOfCalls(calls);
  }
  if (isGeneratorFunction(found)) {
    throw new UnfitModule(`exports a generator function, a call of which runs nothing: ${WANTED}, without the *`);
  }
  return found === exported?.run ? found.bind(exported) : found;
}

function functionIn(owner, name) {
  const found = owner?.[name];
  return typeof found === "function" ? found : null;
}

/** Make the entry of a module that exports `calls`: it registers all of them, and is ready. */
function entryOfCalls(calls) {
  const isObject = typeof calls === "object" && calls !== null && !isArray(calls);
  const methods = isObject ? keys(calls) : [];
  if (methods.length === 0) {
    throw new UnfitModule("exports calls that hold no function by name: write export const calls = { name: handler }");
  }
  for (let index = 0; index < methods.length; index += 1) {
    if (functionIn(calls, methods[index]) === null) {
      throw new UnfitModule(`exports calls of which ${stringify(methods[index])} is no function`);
    }
  }
  return ({ onCall, ready }) => {
    for (let index = 0; index < methods.length; index += 1) onCall(methods[index], calls[methods[index]]);
    ready();
  };
}

function whatIsWrong(module) {
  const exported = module.default;
  if (typeof exported !== "object" || exported === null || isArray(exported)) return `exports no function: ${WANTED}, or functions by name as calls`;
  return `exports an object as default: ${WANTED}, or its functions by export const calls = { … } (only module.exports of a CommonJS module may be an object with run)`;
}
