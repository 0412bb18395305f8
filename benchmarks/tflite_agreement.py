"""Imports a .tflite network and compares it with TensorFlow's TFLite interpreter.

    python -m benchmarks.tflite_agreement --model=deeplabv3_257_mv_gpu.tflite \\
        --voc=VOCdevkit/VOC2012 --split=val

Prints the share of pixels on which both choose the same class, and the largest
difference of the logits where the file gives them. Images are resized to the network's
input if it is float, and padded by grey (127) if it is quantised.
"""

from __future__ import annotations

import argparse
import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from deeplab_tf.weights.importing import load_source


class TFLiteNetwork:
    """A .tflite segmentation network under TensorFlow's interpreter."""

    def __init__(self, path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the class will move to LiteRT
            self._interpreter = tf.lite.Interpreter(path)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self.size = tuple(self._input["shape"][1:3])
        self.quantized = self._input["dtype"] == np.uint8

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """uint8 [h, w, 3] -> float32 [size, size, 3] in 0..255."""
        if not self.quantized:
            return tf.image.resize(image, self.size).numpy()
        padded = np.full((*self.size, 3), 127, np.float32)
        image = image[: self.size[0], : self.size[1]]
        padded[: image.shape[0], : image.shape[1]] = image
        return padded

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Runs an image of `prepare`: logits [h, w, classes], or classes [h, w]."""
        if not self.quantized:
            image = image / 127.5 - 1.0
        batch = image[None].astype(self._input["dtype"])
        self._interpreter.set_tensor(self._input["index"], batch)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])[0]


def compare(model, network: TFLiteNetwork, image: np.ndarray) -> tuple[float, float]:
    """Returns (share of equal classes, largest difference of logits or NaN)."""
    image = network.prepare(image)
    expected = network(image)
    logits = np.asarray(model(image[None], training=False))[0]
    if network.quantized:
        return float((logits.argmax(-1) == expected).mean()), float("nan")
    agreement = (logits.argmax(-1) == expected.argmax(-1)).mean()
    return float(agreement), float(np.abs(logits - expected).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="A .tflite file.")
    parser.add_argument("--voc", required=True, help="Folder of VOC 2012.")
    parser.add_argument("--split", default="val")
    parser.add_argument("--num_images", type=int, help="All where not given.")
    options = parser.parse_args()
    model, config, report = load_source("tflite", options.model)
    print(report)
    network = TFLiteNetwork(options.model)
    list_file = f"{options.voc}/ImageSets/Segmentation/{options.split}.txt"
    with open(list_file, encoding="utf-8") as file:
        names = file.read().split()[: options.num_images]
    results = []
    for name in tqdm(names, disable=None):
        encoded = tf.io.read_file(f"{options.voc}/JPEGImages/{name}.jpg")
        image = tf.io.decode_jpeg(encoded, channels=3).numpy()
        results.append(compare(model, network, image))
    agreements, differences = np.transpose(results)
    print(f"{config.model} on {config.backbone}, output stride {config.output_stride}")
    print(f"Equal classes: {agreements.mean():.4%} of pixels of {len(names)} images")
    print(f"Worst image: {agreements.min():.4%}")
    if not network.quantized:
        print(f"Largest difference of logits: {differences.max():.2g}")


if __name__ == "__main__":
    main()
