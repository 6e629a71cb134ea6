"""Fixtures for hosts and workers in virtual time."""
