// Says that it is there, and waits.
export function run(process) {
  process.ready();
}
