"""A workdir in; a SavedModel, LiteRT, ONNX or OpenVINO files out."""
