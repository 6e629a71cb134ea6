"""The shim: the entry that starts a command's program, and speaks for it.

It runs in the contained process and has the program as its child. To the host it is an ordinary `async` entry: it says
ready, beats, sends, completes and fails. So a command has the states, the stop, the tree and the post-mortem of an
entry, and nothing else of the library knows about programs.

The program inherits nothing of it but a working directory, an environment, and three descriptors.
"""
