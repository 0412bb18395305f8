"""Counts parameters and multiply-adds of the models, for docs/models.md.

    python -m benchmarks.model_table            # prints both tables
    python -m benchmarks.model_table --write    # puts them into docs/models.md

Counted are the multiplications of convolutions, each with its addition: every weight of
a kernel is used once for each pixel of the output. Not counted are biases, BatchNorm,
activations, pooling, additions and resizing.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import os
import re
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tensorflow import keras

from deeplab_tf.networks import heads
from deeplab_tf.networks.models import MODELS
from deeplab_tf.networks.multiply_adds import multiply_adds

NUM_CLASSES = 21
IMAGE_SIZE = 513
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "models.md"

# Where trained weights can be had.
IMAGENET = "ImageNet: keras.applications"
AUTHORS_IMAGENET = "ImageNet, backbone only: research/deeplab"
KAZUTO1011 = f"kazuto1011; {IMAGENET}"
TORCHVISION = "COCO with VOC labels: torchvision"


def count_parameters(model) -> tuple[int, int]:
    """Returns (trainable, all) weights; all has the moving statistics too."""
    return tuple(
        sum(math.prod(weight.shape) for weight in weights)
        for weights in (model.trainable_weights, model.weights)
    )


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
      model: a row of `MODELS`.
      backbone: a row of `BACKBONES`.
      label: what distinguishes it from the model's own arguments.
      published: first table: what others state of it; empty where nobody does.
      weights: first table: where trained weights can be had.
      source: second table: where the figure stands.
      figure: second table: what stands there, in 1e9 multiply-adds.
      image_size: height and width, pixels.
      options: further arguments of the model.
    """

    model: str
    backbone: str
    label: str = ""
    published: str = ""
    weights: str = IMAGENET
    source: str = ""
    figure: float = 0.0
    image_size: int = IMAGE_SIZE
    options: dict = dataclasses.field(default_factory=dict)

    @property
    def output_stride(self) -> int:
        default = inspect.signature(MODELS[self.model]).parameters["output_stride"]
        return self.options.get("output_stride", default.default)

    def build(self):
        """Builds the model with zeros for weights, which is several times as fast."""
        zeros = {"he_normal": keras.initializers.Zeros}
        with keras.utils.custom_object_scope(zeros):
            return MODELS[self.model](
                NUM_CLASSES, backbone=self.backbone, **self.options
            )

    def name_cells(self) -> tuple[str, str, str]:
        model = f"{self.model}, {self.label}" if self.label else self.model
        return model, self.backbone, str(self.output_stride)


def _row(model, backbone, label="", published="", weights=IMAGENET, **options) -> Row:
    return Row(model, backbone, label, published, weights, options=options)


ONE_SCALE = {"input_scales": (1.0,)}
WITH_AUXILIARY = {"auxiliary_outputs": True}
TORCHVISION_MOBILENET = {
    **WITH_AUXILIARY,
    "output_stride": 16,
    "atrous_rates": (12, 24, 36),
}
ROWS = (
    _row("deeplab_v1", "vgg16", "LargeFOV", "20.5 M"),
    _row("deeplab_v1", "vgg16", "MSc-LargeFOV", multi_scale_features=True),
    _row("deeplab_v2", "vgg16", "LargeFOV", atrous_rates=heads.LARGE_FOV, **ONE_SCALE),
    _row("deeplab_v2", "vgg16", "ASPP-L", **ONE_SCALE),
    _row("deeplab_v2", "resnet101", "ASPP-L", "", KAZUTO1011, **ONE_SCALE),
    _row("deeplab_v2", "resnet101", "ASPP-L, MSC", "", KAZUTO1011),
    _row("deeplab_v3_cascade", "resnet50"),
    _row("deeplab_v3_cascade", "resnet101"),
    _row("deeplab_v3", "resnet50"),
    _row("deeplab_v3", "resnet101"),
    _row("deeplab_v3", "resnet101_beta", "", "58.16 M, 81.02 B", AUTHORS_IMAGENET),
    _row("deeplab_v3", "mobilenet_v2", "", "4.52 M, 5.8 B"),
    _row(
        "deeplab_v3",
        "mobilenet_v2",
        "no 3x3 in ASPP",
        "2.11 M, 2.75 B",
        f"research/deeplab; bonlime; tflite; {IMAGENET}",
        atrous_rates=(),
    ),
    _row(
        "deeplab_v3_torchvision",
        "resnet50_torchvision",
        "auxiliary head",
        "42,004,074",
        TORCHVISION,
        **WITH_AUXILIARY,
    ),
    _row(
        "deeplab_v3_torchvision",
        "resnet101_torchvision",
        "auxiliary head",
        "60,996,202",
        TORCHVISION,
        **WITH_AUXILIARY,
    ),
    _row(
        "deeplab_v3_torchvision",
        "mobilenet_v3_large_torchvision",
        "auxiliary head",
        "11,029,328",
        TORCHVISION,
        **TORCHVISION_MOBILENET,
    ),
    _row("deeplab_v3plus", "resnet50"),
    _row("deeplab_v3plus", "resnet101"),
    _row("deeplab_v3plus", "resnet101_beta", "", "101.28 B", AUTHORS_IMAGENET),
    _row("deeplab_v3plus", "xception41", "", "", AUTHORS_IMAGENET),
    _row("deeplab_v3plus", "xception65", "", "54.17 B", "research/deeplab; bonlime"),
    _row("deeplab_v3plus", "xception71", "", "", AUTHORS_IMAGENET),
    _row("deeplab_v3plus", "mobilenet_v2"),
    *[
        _row("deeplab_v3", name)
        for name in (
            "mobilenet_v3_large",
            "mobilenet_v3_small",
            "efficientnet_v2_b0",
            "efficientnet_v2_b1",
            "efficientnet_v2_b2",
            "efficientnet_v2_b3",
            "efficientnet_v2_s",
            "convnext_tiny",
        )
    ],
    _row("lr_aspp", "mobilenet_v3_large"),
    _row("lr_aspp", "mobilenet_v3_large_torchvision", "", "3,221,538", TORCHVISION),
    _row("lr_aspp", "mobilenet_v3_small"),
    _row("lr_aspp", "mobilenet_v3_large_seg", "", "1.51 M", "-"),
    _row("lr_aspp", "mobilenet_v3_small_seg", "", "0.47 M", "-"),
)


def _figure(
    source, figure, model, backbone, output_stride=16, label="", size=IMAGE_SIZE, **more
) -> Row:
    options = {"output_stride": output_stride, **more}
    return Row(
        model,
        backbone,
        label,
        source=source,
        figure=figure,
        image_size=size,
        options=options,
    )


_TABLE3, _TABLE5 = "V3+, table 3", "V3+, table 5"
_TABLE7 = "MobileNetV2, table 7"
_FULL = {"label": "not separable", "separable": False}
# The figures of 1802.02611, of 1801.04381 and of torchvision's own code.
FIGURES = (
    _figure(_TABLE3, 52.43, "deeplab_v3", "resnet101_beta", 32),
    _figure(_TABLE3, 81.02, "deeplab_v3", "resnet101_beta"),
    _figure(_TABLE3, 276.18, "deeplab_v3", "resnet101_beta", 8),
    _figure(_TABLE3, 74.20, "deeplab_v3plus", "resnet101_beta", 32),
    _figure(_TABLE3, 101.28, "deeplab_v3plus", "resnet101_beta"),
    _figure(_TABLE3, 297.92, "deeplab_v3plus", "resnet101_beta", 8),
    _figure(_TABLE5, 68.00, "deeplab_v3", "xception65"),
    _figure(_TABLE5, 240.85, "deeplab_v3", "xception65", 8),
    _figure(_TABLE5, 89.76, "deeplab_v3plus", "xception65", **_FULL),
    _figure(_TABLE5, 262.59, "deeplab_v3plus", "xception65", 8, **_FULL),
    _figure(_TABLE5, 54.17, "deeplab_v3plus", "xception65"),
    _figure(_TABLE5, 177.10, "deeplab_v3plus", "xception65", 8),
    _figure(_TABLE7, 5.80, "deeplab_v3", "mobilenet_v2"),
    _figure(
        _TABLE7,
        2.75,
        "deeplab_v3",
        "mobilenet_v2",
        label="no 3x3 in ASPP",
        atrous_rates=(),
    ),
    _figure(
        "torchvision",
        178.722,
        "deeplab_v3_torchvision",
        "resnet50_torchvision",
        8,
        size=520,
        **WITH_AUXILIARY,
    ),
    _figure(
        "torchvision",
        258.743,
        "deeplab_v3_torchvision",
        "resnet101_torchvision",
        8,
        size=520,
        **WITH_AUXILIARY,
    ),
    _figure(
        "torchvision",
        10.452,
        "deeplab_v3_torchvision",
        "mobilenet_v3_large_torchvision",
        size=520,
        **TORCHVISION_MOBILENET,
    ),
    _figure(
        "torchvision", 2.086, "lr_aspp", "mobilenet_v3_large_torchvision", size=520
    ),
)


def models_line(row: Row) -> str:
    """A line of the first table; builds the model."""
    model = row.build()
    trainable, everything = count_parameters(model)
    count = multiply_adds(model, row.image_size, row.image_size)
    return _line(
        *row.name_cells(),
        f"{trainable:,}",
        f"{everything:,}",
        f"{count / 1e9:.2f}",
        row.published or "-",
        row.weights,
    )


def figures_line(row: Row) -> str:
    """A line of the second table; builds the model."""
    model = row.build()
    cells = []
    for space_to_batch in (False, True):
        count = multiply_adds(model, row.image_size, row.image_size, space_to_batch)
        # Adding 0.0 turns -0.0 into 0.0.
        difference = round(count / 1e9 / row.figure - 1, 4) + 0.0
        cells += [f"{count / 1e9:.2f}", f"{difference:+.2%}"]
    return _line(
        row.source, *row.name_cells(), str(row.image_size), f"{row.figure:.2f}", *cells
    )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: str, lines) -> str:
    columns = ["---" for _ in head.split(",")]
    return "\n".join([_line(*head.split(",")), f"|{'|'.join(columns)}|", *lines])


def markdown_table(head: str, rows) -> str:
    """A table of a head, its cells between commas, and rows of cells."""
    return _table(head, [_line(*cells) for cells in rows])


def models_table() -> str:
    """The table of all models, markdown."""
    head = (
        "model,backbone,output stride,trainable parameters,all weights,"
        "multiply-adds (1e9),published,trained weights"
    )
    return _table(head, map(models_line, ROWS))


def figures_table() -> str:
    """The table of published multiply-adds beside ours, markdown."""
    head = (
        "published in,model,backbone,output stride,image,published,ours,difference,"
        "ours by space-to-batch,difference"
    )
    return _table(head, map(figures_line, FIGURES))


def replace_block(text: str, name: str, block: str) -> str:
    """Puts `block` between the comments `<!-- begin name -->` and `<!-- end name -->`.

    Raises:
      ValueError: the text has no such comments.
    """
    begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    if not re.search(pattern, text, re.DOTALL):
        raise ValueError(
            f"Expected the comments {begin!r} and {end!r} in this order, found no such "
            "pair: put them where the table belongs."
        )
    return re.sub(pattern, lambda _: begin + block + end, text, flags=re.DOTALL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--write", action="store_true", help="Into docs/models.md, not on the screen."
    )
    write = parser.parse_args().write
    text = DOCUMENT.read_text(encoding="utf-8") if write else ""
    for name, table in (("models", models_table), ("figures", figures_table)):
        block = table()
        if write:
            text = replace_block(text, name, block)
        else:
            print(f"{block}\n")
    if write:
        DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
