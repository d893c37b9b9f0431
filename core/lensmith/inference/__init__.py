"""Answers and scores. Questions with the same beginning share its computation; see `forest`."""
