"""Which steps of torchvision's network are timed beside ours."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class TorchRow:
    """A row of `TORCH_ROWS`.

    Attributes:
      precision: "float32" (TensorFloat-32 in products) or "bfloat16" (autocast).
      compiled: whether torch.compile compiles the network.
      output_stride: 16 or 8.
      training: whether it is a training step or a forward pass to class ids.
      importance: as `programs.Program`'s.
    """

    precision: str
    compiled: bool
    output_stride: int = 16
    training: bool = True
    importance: int = 1


TORCH_ROWS = {
    "torch_resnet50_train_bfloat16": TorchRow("bfloat16", False),
    "torch_resnet50_train_bfloat16_compiled": TorchRow("bfloat16", True),
    "torch_resnet50_train_float32": TorchRow("float32", False),
    "torch_resnet50_train_float32_compiled": TorchRow("float32", True),
    "torch_resnet50_forward_bfloat16": TorchRow("bfloat16", False, training=False),
    "torch_resnet50_forward_bfloat16_compiled": TorchRow(
        "bfloat16", True, training=False
    ),
    "torch_resnet50_os8_train_bfloat16": TorchRow("bfloat16", False, 8, importance=2),
}
