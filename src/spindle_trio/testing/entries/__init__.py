"""Entry files that ship with the tools for tests."""
