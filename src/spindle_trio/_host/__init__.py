"""Who may spawn, which process holds a key, and in which order all of it ends.

What one process does is `_supervision`.
"""
