// A child of a Python program that drives Node through its own JSON channel: sends messages back, or as many messages of
// 100 bytes as a number asks for.
'use strict';

const TEXT = 'x'.repeat(98);
const BURST = 100; // as in node_child.js

process.on('message', (payload) => {
  if (typeof payload === 'string') {
    process.send(payload);
    return;
  }
  let left = payload;
  const pump = () => {
    const burst = Math.min(left, BURST);
    left -= burst;
    for (let i = 1; i < burst; i++) process.send(TEXT);
    process.send(TEXT, left > 0 ? pump : undefined);
  };
  pump();
});

process.send('ready');
