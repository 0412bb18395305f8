"""What exported models are asked by: names that writers and readers of files share.

A signature that nothing of this package reads back has its names in
`exports/signatures.py` alone.
"""

# Signatures of a SavedModel.
SERVE_IMAGES, SERVE_PROBABILITIES = "serve_images", "serve_probabilities"
# Tensors, in files of other runtimes too.
IMAGES, CLASSES = "images", "classes"
