// What the backend calls.

export default function run(process) {
  const { greeting } = process.payload;
  process.onMessage(({ name }) => process.send(`${greeting}, ${name}`));
  process.onCall("square", ({ n }) => n * n);
  process.onCall("words", function* ({ text }) {
    yield* text.split(" ");
  });
  process.onCall("hangs", () => {
    for (;;);
  });
  process.ready();
}
