// The entry's context: the facts from `init`, and the functions of the runtime.

import { defineProperty, hasOwn, keys } from "./intrinsics.mjs";

/**
 * Make a context. Facts that the spawn did not give are absent.
 * @param facts the frame `init`
 * @param functions `ready`, `send` and so on
 */
export function makeContext(facts, functions) {
  const { processId, entry, kind } = facts;
  const context = { processId, entry, kind };
  if (hasOwn(facts, "key")) context.key = facts.key;
  if (hasOwn(facts, "payload")) context.payload = facts.payload;
  if (hasOwn(facts, "metadata")) context.metadata = facts.metadata;
  if (hasOwn(facts, "userId")) context.userId = facts.userId;
  const names = keys(functions);
  for (let index = 0; index < names.length; index += 1) context[names[index]] = functions[names[index]];
  // Not enumerable: the API that entries are written for does not have this name.
  return defineProperty(context, "heartbeatTimeoutMs", { value: facts.heartbeatTimeoutMs || Infinity });
}
