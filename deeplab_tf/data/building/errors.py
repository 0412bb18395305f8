"""What a builder cannot go on with, told to the person who runs it."""


class DatasetError(ValueError):
    """Something the person who runs a builder can mend; the message says what."""
