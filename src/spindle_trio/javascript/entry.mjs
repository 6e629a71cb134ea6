// Loads an entry: finds the function that its module exports, or says what is wrong.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

import { isArray, isGeneratorFunction, isModuleNamespace } from "./intrinsics.mjs";
import { requireInPlace } from "./place.mjs";

const { cache: commonJsModules } = createRequire(import.meta.url);

const WANTED = "export a function as default, or as run";

/** What is wrong with an entry whose import never ends. */
export const NEVER_LOADED =
  "waits for nothing while it is loaded: a top-level await never settles, modules await each other in a circle, " +
  'or a function named "then" is exported';

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
  if (found === null) throw new UnfitModule(whatIsWrong(module));
  if (isGeneratorFunction(found)) {
    throw new UnfitModule(`exports a generator function, a call of which runs nothing: ${WANTED}, without the *`);
  }
  return found === exported?.run ? found.bind(exported) : found;
}

function functionIn(owner, name) {
  const found = owner?.[name];
  return typeof found === "function" ? found : null;
}

function whatIsWrong(module) {
  const exported = module.default;
  if (typeof exported !== "object" || exported === null || isArray(exported)) return `exports no function: ${WANTED}`;
  return `exports an object as default: ${WANTED} (only module.exports of a CommonJS module may be an object with run)`;
}
