"""One file a published data set: where it is, and what its labels mean."""
