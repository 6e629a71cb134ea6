// The twin of `check_entry.py` for launchers of JavaScript: it does what its payload says. What each word means is
// written there.

export default function run(process) {
  const order = process.payload;
  if (order.do === "exit") globalThis.process.exit(order.code);
  if (order.do === "hold") process.onStop(({ reason }) => process.complete(reason));
  process.ready();
  if (order.do === "echo" || order.do === "beat") {
    process.onMessage((payload) => {
      if (order.do === "beat") process.heartbeat();
      process.send(payload);
    });
  } else if (order.do === "flood") {
    for (let number = 0; number < order.count; number += 1) process.send([number, "x".repeat(order.size)]);
    process.complete(order.count);
  } else if (order.do === "block") {
    for (;;);
  }
}
