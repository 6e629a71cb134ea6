"""Sends back what it gets: the floor under a round trip between two processes.

python socket_echo.py DESCRIPTOR
"""

from __future__ import annotations

import socket
import sys

if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as lane:
        while data := lane.recv(4096):
            lane.sendall(data)
