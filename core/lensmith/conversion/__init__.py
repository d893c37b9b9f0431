"""Checkpoints of other projects to artifacts, and artifacts to their files, tensor by tensor."""
