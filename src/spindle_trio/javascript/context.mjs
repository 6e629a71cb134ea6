// The entry's context: the facts from `init`, and the functions of the runtime.

import { Error, defineProperty, hasOwn, keys } from "./intrinsics.mjs";

/**
 * Make a context. Facts that the spawn did not give are absent.
 * @param facts the frame `init`
 * @param functions `ready`, `send` and so on
 * @param calls the entry's calls
 */
export function makeContext(facts, functions, calls) {
  const { processId, entry, kind } = facts;
  const context = { processId, entry, kind };
  if (hasOwn(facts, "key")) context.key = facts.key;
  if (hasOwn(facts, "payload")) context.payload = facts.payload;
  if (hasOwn(facts, "metadata")) context.metadata = facts.metadata;
  if (hasOwn(facts, "userId")) context.userId = facts.userId;
  const names = keys(functions);
  for (let index = 0; index < names.length; index += 1) context[names[index]] = functions[names[index]];
  // Not enumerable: the API that entries are written for does not have these names.
  defineProperty(context, "onCall", { value: calls.functions.onCall });
  defineProperty(context, "limitCalls", { value: calls.functions.limitCalls });
  defineProperty(context, "call", { get: () => calls.current ?? refuseCall() });
  return defineProperty(context, "heartbeatTimeoutMs", { value: facts.heartbeatTimeoutMs || Infinity });
}

function refuseCall() {
  throw new Error("process.call is there inside a handler of a call, while it serves one");
}
