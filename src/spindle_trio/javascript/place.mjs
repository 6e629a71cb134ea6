// Checks that the entry's file still lies where the host checked it. The Python twin reads the file that it has opened.
// JavaScript is loaded by its path, so a swap between this check and the load goes unnoticed.

import { closeSync, openSync, readlinkSync } from "node:fs";

import { Error } from "./intrinsics.mjs";

/** Throw if a folder above a file has become a link since the file was checked. */
export function requireInPlace(file) {
  let place;
  try {
    const fd = openSync(file, "r");
    try {
      place = readlinkSync(`/proc/self/fd/${fd}`);
    } finally {
      closeSync(fd);
    }
  } catch {
    return; // loading it gives a better error
  }
  if (place !== file) throw new Error(`${file} was replaced by a link to elsewhere after it was checked`);
}
