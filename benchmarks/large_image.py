"""Peak memory of predict.py on an image of 20,000 x 20,000 pixels.

    python -m benchmarks.large_image --workdir=runs/camvid --image=photo.jpg

Tiles the photograph, each tile a little different, into a PNG of --size pixels a side,
starts predict.py on it as a process of its own, and prints one JSON line: the process'
peak memory in GiB, its seconds, and the classes it found. The PNG and the outputs stay
in --output.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def write_tiled(photo: str, path: str, size: int, seed: int = 0) -> None:
    """Writes a PNG of size x size pixels, RGB, made of shifted copies of a photograph.

    It is made in a process of its own by this script, so its memory does not count.
    """
    tile = np.asarray(Image.open(photo).convert("RGB"))
    generator = np.random.default_rng(seed)
    canvas = np.empty([size, size, 3], np.uint8)
    for top in range(0, size, tile.shape[0]):
        for left in range(0, size, tile.shape[1]):
            shift = generator.integers(0, tile.shape[1])
            room = canvas[top : top + tile.shape[0], left : left + tile.shape[1]]
            room[...] = np.roll(tile, shift, 1)[: room.shape[0], : room.shape[1]]
    Image.fromarray(canvas).save(path, compress_level=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of a run of train.py")
    parser.add_argument("--image", required=True, help="photograph to tile")
    parser.add_argument("--size", type=int, default=20_000, help="pixels a side")
    parser.add_argument("--window", type=int, default=513)
    parser.add_argument("--output", default="runs/large_image")
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    path = os.path.join(args.output, f"tiled_{args.size}.png")
    if not os.path.exists(path):
        write_tiled(args.image, path, args.size)
    command = [
        *(sys.executable, str(ROOT / "predict.py"), f"--workdir={args.workdir}"),
        *(f"--input={path}", f"--output={args.output}", f"--window={args.window}"),
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    # Of all children the largest: there is one.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    Image.MAX_IMAGE_PIXELS = None
    classes = Image.open(os.path.join(args.output, "classes", f"tiled_{args.size}.png"))
    counts = classes.histogram()
    print(
        json.dumps(
            {
                "size": args.size,
                "window": args.window,
                "peak_gib": round(peak / 2**30, 2),
                "seconds": round(seconds, 1),
                "classes": {id: n for id, n in enumerate(counts) if n},
            }
        )
    )


if __name__ == "__main__":
    main()
