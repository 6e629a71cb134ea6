// Sends each message back.
export function run(process) {
  process.onMessage((payload) => process.send(payload));
  process.ready();
}
