"""What host, fork server and child share of the operating system.

Standard library only, and lean, since every child loads it. What one of them alone needs stays with that one.
"""
