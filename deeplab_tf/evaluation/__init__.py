"""Labels and classes in, scores out."""

from deeplab_tf.evaluation.scores import Evaluation, compare

__all__ = ["Evaluation", "compare"]
