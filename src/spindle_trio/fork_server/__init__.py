"""The program that a `ForkServerLauncher` keeps running: it preloads modules once, and forks processes off."""
