"""Labels and logits in, one number to lower out; each row of `LOSSES` a loss.

Every loss leaves void pixels out, and is that of the global batch on any number of
replicas. A new one is a class or function in a module here and a row in `table.py`.
"""

from deeplab_tf.training.losses.boundary import BoundaryLoss
from deeplab_tf.training.losses.class_weights import BALANCES, balanced_class_weights
from deeplab_tf.training.losses.comparison import compared
from deeplab_tf.training.losses.cross_entropy import SegmentationLoss
from deeplab_tf.training.losses.focal import FocalLoss
from deeplab_tf.training.losses.lovasz import LovaszLoss
from deeplab_tf.training.losses.ohem import OhemLoss
from deeplab_tf.training.losses.overlap import DiceLoss, TverskyLoss
from deeplab_tf.training.losses.sums import SumOfLosses
from deeplab_tf.training.losses.table import LOSSES, check_loss, make_loss

__all__ = [
    "LOSSES",
    "BoundaryLoss",
    "DiceLoss",
    "FocalLoss",
    "LovaszLoss",
    "OhemLoss",
    "SegmentationLoss",
    "SumOfLosses",
    "TverskyLoss",
    "BALANCES",
    "balanced_class_weights",
    "check_loss",
    "compared",
    "make_loss",
]
