"""Tries what it is told to, and completes with what came of each."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))

import attempts


def run(process):
    process.ready()
    given = process.payload
    process.complete({name: attempts.attempt(name, given["at"]) for name in given["names"]})
