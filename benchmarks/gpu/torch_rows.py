"""Times torchvision's DeepLabV3 in PyTorch on the same card, channels last.

    python -m benchmarks.gpu.torch_rows RESULT PROGRAMS DEADLINE BATCH SIZE NAME ...

A child of `run_programs`; needs torch and torchvision alone. The network is the one of
`deeplabv3_resnet50` without its auxiliary head, at output stride 16 or 8. float32 is
TensorFloat-32 in convolutions, as in XLA.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3

from benchmarks.gpu.rows import Results, run_row, seconds_of
from benchmarks.gpu.torch_table import TORCH_ROWS, TorchRow

NUM_CLASSES = 21
RATES = {16: [6, 12, 18], 8: [12, 24, 36]}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(output_stride: int):
    """torchvision's network, whose own constructor knows output stride 8 alone."""
    dilated = [False, output_stride == 8, True]
    backbone = resnet50(weights=None, replace_stride_with_dilation=dilated)
    head = DeepLabHead(2048, NUM_CLASSES, RATES[output_stride])
    features = IntermediateLayerGetter(backbone, {"layer4": "out"})
    model = DeepLabV3(features, head, None)
    return model.to(DEVICE, memory_format=torch.channels_last)


def make_step(row: TorchRow, model, batch: int, size: int):
    """A function that takes one step, or classifies one batch, and waits for it."""
    image = torch.rand(batch, 3, size, size, device=DEVICE)
    image = image.to(memory_format=torch.channels_last)
    label = torch.randint(0, NUM_CLASSES, (batch, size, size), device=DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.007, momentum=0.9)
    call = torch.compile(model) if row.compiled else model

    def logits():
        with torch.autocast(DEVICE, torch.bfloat16, row.precision == "bfloat16"):
            return call(image)["out"].float()

    def train():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(logits(), label, ignore_index=255)
        loss.backward()
        optimizer.step()

    def forward():
        with torch.inference_mode():
            logits().argmax(1)

    def run():
        (train if row.training else forward)()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run


def time_row(row: TorchRow, multiply_adds: int, batch: int, size: int) -> dict:
    """The facts of a row; `multiply_adds` are of one image at 513 x 513."""
    model = network(row.output_stride).train(row.training)
    run = make_step(row, model, batch, size)
    on_card = DEVICE == "cuda"
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()  # compiles where it compiles, and tries convolutions out
    first_seconds = time.perf_counter() - start
    seconds = seconds_of(run)
    passes = 3 if row.training else 1
    return {
        "kind": "training" if row.training else "forward",
        "precision": row.precision,
        "batch": batch,
        "size": [size, size],
        "seconds": seconds,
        "images_per_second": batch / seconds,
        "flops": 2.0 * passes * batch * multiply_adds * (size / 513) ** 2,
        "compile_seconds": first_seconds - seconds,
        "memory_bytes": torch.cuda.max_memory_allocated() if on_card else None,
    }


def main(argv):
    result, folder, deadline, batch, size, *names = argv
    results = Results(result)
    results.write(torch=torch.__version__)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    facts = json.loads(Path(folder, "torch.json").read_text(encoding="utf-8"))
    for name in names:
        if time.time() > float(deadline):
            return
        row = TORCH_ROWS[name]
        count = facts["multiply_adds"][str(row.output_stride)]
        run_row(
            results,
            name,
            lambda row=row, count=count: time_row(row, count, int(batch), int(size)),
        )
        torch.compiler.reset()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1:])
