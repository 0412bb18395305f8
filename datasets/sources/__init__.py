"""The formats that published data sets come in."""
