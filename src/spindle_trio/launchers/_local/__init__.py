"""The parts of the launchers for processes on this machine.

The public launchers are one folder up.
"""
