"""Rows, pictures and batches: from files on disk to what a model is trained on."""
