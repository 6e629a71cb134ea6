"""What waits to be read in the host, and who reads it.

How it gets there is `_protocol`.
"""
