"""A network and any picture in, classes at the picture's own size out."""

from deeplab_tf.inference.network import Ensemble
from deeplab_tf.inference.segmenter import PAPER_SCALES, Segmenter, load_segmenter

__all__ = ["PAPER_SCALES", "Ensemble", "Segmenter", "load_segmenter"]
