"""What runs any program as an entry: it starts the program, watches it, and speaks with it. Lean at import.

An entry of the library's own (`entry.py`) that knows nothing of the host: it is a client of `spindle_trio.child`.
"""
