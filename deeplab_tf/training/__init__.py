"""A configuration and batches in, a workdir out."""
