// Sends as many messages of 100 bytes as it is asked for.
const TEXT = "x".repeat(98);

export function run(process) {
  process.onMessage((count) => {
    for (let left = count; left > 0; left -= 1) process.send(TEXT);
  });
  process.ready();
}
