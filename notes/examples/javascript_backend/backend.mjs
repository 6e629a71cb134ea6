// The backend. It has tools in a process of their own, which answer calls; one of them hangs.

const { backendProcesses } = spindle;

backendProcesses.onMessage(({ payload }) => console.log("message:", payload));

const tools = await backendProcesses.spawn({ entry: "tools.mjs", payload: { greeting: "hello" } });
const ended = new Promise((resolve) => {
  backendProcesses.onLifecycle(({ processId, state, error }) => {
    if (processId === tools.processId && error !== undefined) resolve(`${state}: ${error}`);
  });
});

tools.send({ name: "Ada" });
console.log("square:", await tools.call("square", { n: 3 }, { timeoutMs: 2000 }));
for await (const word of tools.stream("words", { text: "wait for the reader" })) console.log("word:", word);

try {
  await tools.call("hangs", null, { timeoutMs: 200, overrun: "kill" });
} catch (error) {
  console.log(`${error.name}: ${error.message}`.replace(tools.processId, "…"));
}
console.log(await ended);
spindle.close();
