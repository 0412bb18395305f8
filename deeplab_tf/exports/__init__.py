"""A workdir in; a SavedModel, LiteRT or ONNX file out."""
