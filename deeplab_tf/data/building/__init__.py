"""Samples in, shards of records out: whole or not at all."""
