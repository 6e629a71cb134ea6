// The parent in Node.js: measures child_process.fork and its IPC, as told by lines on stdin; answers a line each.
//
//   spawn     milliseconds from fork() to the child's first message
//   flood N   messages a second, for N messages of 100 bytes from child to parent
'use strict';

const { fork } = require('node:child_process');
const path = require('node:path');
const readline = require('node:readline');

const CHILD = path.join(__dirname, 'node_child.js');

function now() {
  return Number(process.hrtime.bigint()) / 1e6;
}

function spawn() {
  const began = now();
  const child = fork(CHILD);
  child.once('message', () => {
    const elapsed = now() - began;
    child.once('exit', () => console.log(elapsed));
    child.kill('SIGKILL');
  });
}

function flood(count) {
  const child = fork(CHILD);
  child.once('message', () => {
    let left = count;
    let began = 0;
    child.on('message', () => {
      if (--left === 0) {
        const rate = count / ((now() - began) / 1000);
        child.once('exit', () => console.log(rate));
        child.kill('SIGKILL');
      }
    });
    began = now();
    child.send(count);
  });
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [command, argument] = line.split(' ');
  if (command === 'spawn') spawn();
  else flood(Number(argument));
});
