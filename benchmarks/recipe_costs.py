"""What each recipe takes of a GPU, of its time and of a disk, as a table.

    python -m benchmarks.recipe_costs

Estimated, not run: from what the H200 did of DeepLabV3-ResNet-50 (docs/benchmarks.md),
time by multiply-adds, memory by what convolutions write, and an optimizer's state.
Separable networks do less a second than the ResNet (MobileNetV2 a fifth of this
estimate, where it was measured), so theirs are lower bounds. A test compares
`recipes.RECIPES` with it.
"""

from __future__ import annotations

import argparse
import functools
import math

from deeplab_tf.config import TrainConfig
from deeplab_tf.devices.expected_time import readable_time
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.multiply_adds import layer_calls, multiply_adds
from deeplab_tf.recipes import RECIPES, recipe_config

# Measured on an H200 in float32: 16 crops of 513 pixels.
MEASURED = TrainConfig(num_classes=21, batch_size=16, crop_size=(513, 513))
IMAGES_PER_SECOND, GIGABYTES = 246, 10.1
# Of a run: three checkpoints of weights and momentum, the best and the last weights.
COPIES_ON_DISK = 3 * 2 + 2
COPIES_IN_MEMORY = 3  # weights, gradients, momentum


@functools.lru_cache(maxsize=1)  # a network is 250 MB, and some recipes share theirs
def _network_costs(config: TrainConfig) -> tuple[int, int, int]:
    """(parameters, multiply-adds of a crop, values that convolutions write of it)."""
    model = build_model(config, auxiliary_outputs=True)
    written = sum(
        math.prod(shape[1:])
        for layer, shape in layer_calls(model, *config.crop_size)
        if getattr(layer, "kernel", None) is not None
        or getattr(layer, "depthwise_kernel", None) is not None
    )
    return model.count_params(), multiply_adds(model, *config.crop_size), written


def costs(config: TrainConfig) -> tuple[float, float, float]:
    """(GB of a GPU in float32, seconds an image on an H200, GB of a run on disk)."""
    parameters, work, written = _network_costs(config)
    base_parameters, base_work, base_written = _network_costs(MEASURED)
    features = GIGABYTES - 4e-9 * COPIES_IN_MEMORY * base_parameters
    share = config.batch_size * written / (MEASURED.batch_size * base_written)
    memory = share * features + 4e-9 * COPIES_IN_MEMORY * parameters
    seconds = work / base_work / IMAGES_PER_SECOND
    return memory, seconds, 4e-9 * COPIES_ON_DISK * parameters


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="*", default=list(RECIPES), help="Recipes.")
    options = parser.parse_args()
    print("| recipe | GPU, GB | images/s of an H200 | time | disk, GB |\n|-|-|-|-|-|")
    for name in options.rows:
        config = recipe_config(name)
        network = TrainConfig(
            **{**vars(config), "num_classes": 21, "class_weights": None}
        )
        memory, seconds, disk = costs(network)
        steps = readable_time(config.steps * config.batch_size * seconds)
        print(f"| {name} | {memory:.1f} | {1 / seconds:.0f} | {steps} | {disk:.1f} |")


if __name__ == "__main__":
    main()
