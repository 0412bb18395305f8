"""The file in which benchmarks.limit tells its rows the convolutions to time.

A convolution is [output height, output width, inputs, outputs, kernel height, kernel
width, stride, rate, groups].
"""

from __future__ import annotations

import json
import os

_FILE = "convolutions.json"


def write_convolutions(convolutions: list[list[int]], folder: str) -> None:
    with open(os.path.join(folder, _FILE), "w") as file:
        json.dump(convolutions, file)


def read_convolutions(folder: str) -> list[list[int]]:
    with open(os.path.join(folder, _FILE)) as file:
        return json.load(file)
