"""Lensmith's own parts, found through the same entry points as a stranger's."""
