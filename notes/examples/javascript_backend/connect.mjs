// Gives a backend its global `spindle`, as the API has it.

import net from "node:net";
import { env } from "node:process";

const { connectWorker } = await import(env.SPINDLE_WORKER); // an installed package is imported as spindle-trio/worker.mjs

globalThis.spindle = connectWorker(new net.Socket({ fd: Number(env.SPINDLE_SOCKET) }));
