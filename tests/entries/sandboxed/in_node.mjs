// Tries what it is told to in Node, and completes with what came of each.

import { execFileSync, spawnSync } from "node:child_process";
import dgram from "node:dgram";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { Worker } from "node:worker_threads";

const helper = path.join(import.meta.dirname, "attempts.py");

const connect = (options) =>
  new Promise((resolve, reject) => {
    const socket = net.connect(options, () => resolve(socket.destroy()));
    socket.on("error", reject);
  });

const native = {
  read_ssh: (at) => fs.readFileSync(`${at.home}/.ssh/id_ed25519`),
  list_home: (at) => fs.readdirSync(at.home),
  write_beside: (at) => fs.writeFileSync(`${at.beside}/new`, "here"),
  change_beside: (at) => fs.appendFileSync(`${at.beside}/file`, "more"),
  truncate_beside: (at) => fs.truncateSync(`${at.beside}/file`),
  remove_beside: (at) => fs.unlinkSync(`${at.beside}/removable`),
  make_folder_beside: (at) => fs.mkdirSync(`${at.beside}/folder`),
  move_in: (at) => fs.renameSync(`${at.beside}/movable`, `${at.root}/moved-in`),
  hard_link_out: (at) => {
    fs.linkSync(`${at.beside}/file`, `${at.root}/hard`);
    fs.appendFileSync(`${at.root}/hard`, "more");
  },
  soft_link_out: (at) => fs.readFileSync(`${at.root}/ready-link`),
  write_by_a_soft_link: (at) => fs.appendFileSync(`${at.root}/ready-link`, "more"),
  write_root: (at) => fs.writeFileSync(`${at.root}/written`, "here"),
  proc_environment: (at) => fs.readFileSync(`/proc/${at.victim}/environ`),
  proc_command_line: (at) => fs.readFileSync(`/proc/${at.victim}/cmdline`),
  signal_other: (at) => process.kill(at.victim, "SIGCONT"),
  tcp: (at) => connect({ port: at.tcp, host: "127.0.0.1" }),
  tcp_listen: () =>
    new Promise((resolve, reject) => {
      const server = net.createServer().on("error", reject);
      server.listen(0, "127.0.0.1", () => server.close(resolve));
    }),
  udp: (at) =>
    new Promise((resolve, reject) => {
      const socket = dgram.createSocket("udp4").on("error", reject);
      socket.send("out", at.udp, "127.0.0.1", (error) => (socket.close(), error ? reject(error) : resolve()));
    }),
  unix_socket: (at) => connect({ path: at.unix }),
  imports: async () => {
    for (const name of ["crypto", "zlib", "http", "stream/promises"]) await import(`node:${name}`);
  },
  threads: () =>
    new Promise((resolve, reject) => {
      new Worker("1 + 1", { eval: true }).on("error", reject).on("exit", resolve);
    }),
  subprocesses: () => execFileSync("sh", ["-c", "ls /usr | cat"]),
  temporary_files: () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "x-"));
    fs.writeFileSync(`${folder}/x`, "x");
    fs.rmSync(folder, { recursive: true });
  },
  own_proc: () => fs.readFileSync("/proc/self/status"),
  devices: () => fs.writeFileSync("/dev/null", "x"),
  read_root: (at) => (fs.readFileSync(`${at.root}/data/file`), fs.readdirSync(at.root)),
};

function byHelper(name, at, python) {
  const ran = spawnSync(python, [helper, name, JSON.stringify(at)], { encoding: "utf8" });
  if (ran.error) return `broken: ${ran.error}`;
  return ran.stdout.trim() || `broken: ${ran.stderr.slice(-300)}`;
}

export default async function run(process_) {
  process_.ready();
  const { at, names, python } = process_.payload;
  const outcomes = {};
  for (const name of names) {
    if (!(name in native)) {
      outcomes[name] = byHelper(name, at, python);
      continue;
    }
    try {
      await native[name](at);
      outcomes[name] = "done";
    } catch (error) {
      outcomes[name] = error.code ? `refused: ${error.message}` : `broken: ${error.stack}`;
    }
  }
  process_.complete(outcomes);
}
