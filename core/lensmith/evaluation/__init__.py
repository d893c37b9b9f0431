"""Benchmarks: asking a model, scoring its answers, and telling what came out. Scoring needs no torch."""
