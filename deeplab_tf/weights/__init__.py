"""Other projects' weight files and published networks in, a workdir out."""
