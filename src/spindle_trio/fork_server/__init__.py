"""The program that a launcher keeps running: it preloads modules once, and forks processes."""
