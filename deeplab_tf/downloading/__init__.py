"""An address in, a checked file or its unpacked content out."""
