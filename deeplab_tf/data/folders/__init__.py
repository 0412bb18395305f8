"""Anyone's folders, lists and colours in, samples out."""
