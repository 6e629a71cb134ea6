"""The operating-system code that host, fork server and child share.

Standard library only, and lean, since every child loads it. Code that only one of them needs stays there.
"""
