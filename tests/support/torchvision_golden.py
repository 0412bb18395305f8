"""What torchvision's networks on MobileNetV3 say, with weights that their names give.

    .venv-peers/torch/bin/python -m tests.support.torchvision_golden

writes `torchvision_golden.npz` beside this file; `python -m benchmarks.peers` makes
that environment. Names, shapes and a grid of the outputs are kept, in float32.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
NETWORKS = ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
SIZE = (97, 130)
GRID = 12  # every so many pixels of the outputs are kept
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Seeded by its name, and so that no layer explodes."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    if len(shape) == 4:
        scale = np.sqrt(1.3 / np.prod(shape[1:]))
        return rng.normal(0, scale, shape).astype(np.float32)
    is_scale = name.endswith("weight")
    return (is_scale + rng.normal(0, 0.05, shape)).astype(np.float32)


def image() -> np.ndarray:
    """uint8 [height, width, 3]: waves and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = [np.sin(x / (7 + 3 * c)) * np.cos(y / (9 + 2 * c) - c) for c in range(3)]
    picture = 127 + 90 * np.stack(waves, -1) + rng.normal(0, 12, (*SIZE, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def read(network: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns a network's (tensors by name, outputs "out" and "aux" on the grid)."""
    with np.load(FILE) as file:
        texts = file[f"{network}/names"]
        shapes = [tuple(map(int, text.split(","))) if text else () for text in texts[1]]
        outputs = {
            name.rpartition("/")[2]: file[name]
            for name in file.files
            if name.startswith(f"{network}/") and not name.endswith("names")
        }
    return {n: tensor(n, s) for n, s in zip(texts[0], shapes)}, outputs


def main():
    import torch
    from torchvision.models import segmentation

    scaled = (image() / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)
    batch = torch.from_numpy(scaled.astype(np.float32)).permute(2, 0, 1)[None]
    kept = {}
    for network in NETWORKS:
        options = {"aux_loss": True} if network.startswith("deeplab") else {}
        model = getattr(segmentation, network)(
            weights=None, weights_backbone=None, num_classes=21, **options
        ).eval()
        state = model.state_dict()
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        model.load_state_dict(
            {n: torch.from_numpy(tensor(n, shape)) for n, shape in shapes.items()}
        )
        texts = [",".join(map(str, shape)) for shape in shapes.values()]
        kept[f"{network}/names"] = np.array([list(shapes), texts])
        with torch.no_grad():
            for name, output in model(batch).items():
                grid = output[:, :, ::GRID, ::GRID].permute(0, 2, 3, 1)
                kept[f"{network}/{name}"] = grid.numpy()
    np.savez_compressed(FILE, **kept)


if __name__ == "__main__":
    main()
