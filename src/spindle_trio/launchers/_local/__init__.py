"""What the launchers for processes on this machine stand on.

The launchers that people name are one folder up.
"""
