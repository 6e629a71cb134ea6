"""Messages and events that wait in the host, and their readers.

How they travel is `_protocol`.
"""
