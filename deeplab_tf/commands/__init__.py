"""Where networks and data meet: the commands, which alone read flags."""
