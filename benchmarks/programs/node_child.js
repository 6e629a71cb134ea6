// The child in Node.js: says that it is there, and then sends as many messages of 100 bytes as it is asked for.
'use strict';

const TEXT = 'x'.repeat(98);
const BURST = 100; // of what was tried (20 … 3 000, and all at once) the fastest

process.on('message', (count) => {
  let left = count;
  const pump = () => {
    const burst = Math.min(left, BURST);
    left -= burst;
    for (let i = 1; i < burst; i++) process.send(TEXT);
    // The callback comes when the last of the burst has been written.
    process.send(TEXT, left > 0 ? pump : undefined);
  };
  pump();
});

process.send('ready');
