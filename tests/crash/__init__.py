"""Kills, cuts and pauses at every point, and what must hold all the same."""
