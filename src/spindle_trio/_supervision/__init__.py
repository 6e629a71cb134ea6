"""One process from launch to reaping.

Which processes there are, and who may have them, is `_host`.
"""
