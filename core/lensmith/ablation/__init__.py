"""Swap and compare: a study names a base spec and what varies; every variant is trained, evaluated and tabulated."""
