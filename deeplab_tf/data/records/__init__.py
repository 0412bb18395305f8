"""What a record is: its keys, its frames on disk, and what is known of a data set."""
