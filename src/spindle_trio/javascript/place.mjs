// Whether the entry's file is still where it was checked. The twin in Python reads the file that it has opened;
// JavaScript is loaded by its path, so that a swap between this look and the load goes unnoticed.

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
    return; // whoever loads it says better what is wrong
  }
  if (place !== file) throw new Error(`${file} was replaced by a link to elsewhere after it was checked`);
}
