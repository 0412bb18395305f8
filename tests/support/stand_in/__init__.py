"""The parts of the stand-in for TF Serving; `serving_stand_in.py` starts them."""
