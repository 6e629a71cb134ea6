// Sends lists of times, each just under 1 MiB as JSON, as many as it is asked for.
const TIMES = Array.from({ length: 28_310 }, (_, number) => new Date(1e12 + number));

export function run(process) {
  process.onMessage((count) => {
    for (let left = count; left > 0; left -= 1) process.send(TIMES);
  });
  process.ready();
}
