"""Other projects' weight files in, a workdir out."""
