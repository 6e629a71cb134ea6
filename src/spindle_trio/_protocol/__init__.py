"""Frames, lanes and payloads: what travels between a host and a process.

Children load parts of this. Nothing here knows about hosts or states.
"""
