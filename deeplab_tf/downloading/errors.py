"""What keeps a file from coming, told to the person who asked for it."""


class DownloadError(ValueError):
    """Something that person can mend; the message says what."""
