"""Runs any importable function in a process of its own: the only room that pickles, since it trusts its processes.

Loaded in these processes too: so this file imports nothing.
"""
