"""Which layers of a network are its backbone's, and how they stay as they are."""

from __future__ import annotations

from tensorflow import keras

from deeplab_tf.networks.blocks import is_of_head


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of a model that have weights and are not of its head.

    Args:
      model: of `MODELS`; its layers keep their names in every file.

    Raises:
      ValueError: it is no such model.
    """
    layers = [layer for layer in model.layers if layer.weights]
    backbone = [layer for layer in layers if not is_of_head(layer.name)]
    if not backbone or len(backbone) == len(layers):
        raise ValueError(
            "Expected a network of this package, of a backbone and a head. "
            f"Received: {model.name!r}, whose layers begin with "
            f"{[layer.name for layer in layers[:3]]}"
        )
    return backbone


def head_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers with weights that are not of `backbone_layers`."""
    backbone = {layer.name for layer in backbone_layers(model)}
    return [
        layer for layer in model.layers if layer.weights and layer.name not in backbone
    ]


def freeze_backbone(model: keras.Model, frozen: bool = True) -> list[str]:
    """Lets training change the head alone, such as on few images.

    The backbone's BatchNorm goes into inference mode: it uses the statistics that it
    has, and keeps them. Compile the model after this, not before.

    Args:
      model: of `MODELS`, with trained weights in its backbone.
      frozen: False lets training change the backbone again.

    Returns:
      The names of the backbone's layers.

    Raises:
      ValueError: it is no model of this package.
    """
    layers = backbone_layers(model)
    for layer in layers:
        layer.trainable = not frozen
    return [layer.name for layer in layers]
