"""Who may spawn, which process holds a key, and the order of shutdown.

One process's life belongs to `_supervision`.
"""
