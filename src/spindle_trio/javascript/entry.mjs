// What a module exports as its entry function, and what is wrong where it exports none.

import { createRequire } from "node:module";

import { isArray, isGeneratorFunction, isModuleNamespace } from "./intrinsics.mjs";

const { cache: commonJsModules } = createRequire(import.meta.url);

const WANTED = "export a function as default, or as run";

/** A module exports nothing that can be called as an entry; the message says what it has to export. */
export class UnfitModule {
  constructor(message) {
    this.message = message;
  }
}

/**
 * Find what to call: `default` if that is a function, else `run`. In a CommonJS module `module.exports` counts as
 * `default`, and may also be an object with one of the two.
 * @param module what `import()` has made of the file
 * @param file its path
 * @throws UnfitModule
 */
export function entryFunctionOf(module, file) {
  if (!isModuleNamespace(module)) {
    throw new UnfitModule(`exports a function named "then", which import() calls: give it another name, and ${WANTED}`);
  }
  const loaded = commonJsModules[file];
  // Bun keeps its ES modules there as well, as what they export.
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
