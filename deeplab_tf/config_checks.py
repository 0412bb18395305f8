"""Values of a configuration in, a sentence on what cannot be out.

The types are read off the annotations of the fields, so that a new field is checked
without a line here; what a type does not say stands in `_RANGES`.
"""

from __future__ import annotations

import dataclasses
import json
import math

_SCALARS = {"int": "a whole number", "float": "a number", "str": "a text"}
_SCALARS |= {"bool": "true or false", "None": "null"}
# Field -> (smallest, largest) value of it, or of each of its items.
_RANGES = {
    "output_stride": (1, 256),
    "multi_grid": (1, 1024),
    "atrous_rates": (1, 4096),
    "input_scales": (1e-3, 16),
    "cascade_blocks": (0, 64),
    "head_filters": (1, 4096),
    "decoder_output_stride": (1, 256),
    "dropout_rate": (0, 1 - 1e-6),
    "num_classes": (0, 256),
    "colormap": (0, 255),
    "ignore_label": (0, 255),
    "crop_size": (1, 65536),
    "min_scale": (1e-3, 16),
    "max_scale": (1e-3, 16),
    "scale_step": (0, 16),
    "rotation_degrees": (0, 180),
    "jpeg_quality": (1, 100),
    "erasing": (0, 1),
    "max_class_share": (0.01, 1),
    "copy_paste": (0, 1),
    "min_class_pixels": (0, math.inf),
    "min_labelled_pixels": (0, math.inf),
    "batch_size": (1, math.inf),
    "epochs": (0, math.inf),
    "steps": (0, math.inf),
    "validate_every": (1, math.inf),
    "patience": (0, math.inf),
    "checkpoint_steps": (1, math.inf),
    "auxiliary_weight": (0, math.inf),
    "learning_rate": (0, math.inf),
    "decay_steps": (1, math.inf),
    "end_fraction": (0, 1),
    "warmup_steps": (0, math.inf),
    "warmup_fraction": (0, 1),
    "head_multiplier": (0, math.inf),
    "head_bias_multiplier": (0, math.inf),
    "backbone_multiplier": (0, math.inf),
    "ema_momentum": (0, 1 - 1e-9),
    "batch_norm_batches": (0, math.inf),
    "accumulation_steps": (1, math.inf),
    "class_weights": (0, math.inf),
    "label_stride": (1, 1024),
    "hard_pixel_fraction": (1e-6, 1),
    "hard_mining_steps": (0, math.inf),
    "label_smoothing": (0, 1 - 1e-6),
    "boundary_width": (1, 1024),
    "boundary_weight": (0, math.inf),
    "focal_gamma": (0, math.inf),
    "ohem_threshold": (1e-6, 1),
    "ohem_min_kept": (0, math.inf),
    "tversky_alpha": (0, math.inf),
    "tversky_beta": (0, math.inf),
    "teacher_weight": (0, math.inf),
    "teacher_temperature": (1e-3, 1e3),
    "weight_decay": (0, math.inf),
    "decoupled_weight_decay": (0, math.inf),
}
# Field that takes a text beside other things -> which ones.
_TEXTS = {
    "class_weights": ("balanced", "balanced_sqrt"),
    "frozen_batch_norm": ("backbone",),
    "head_layers": ("classifier", "head"),
    "jit_compile": ("auto",),
    "paste_classes": ("rare",),
}


def check_value(field: dataclasses.Field, value) -> None:
    """Refuses a value of another type than its field's, or out of its range.

    Args:
      field: of a dataclass whose annotations are texts.
      value: for it; lists are tuples by now.

    Raises:
      ValueError: it says what the field takes, what came, and how that is written.
    """
    if not _fits(field.type, value):
        raise ValueError(
            f"{field.name} takes {_described(field.type)}. Received: {_shown(value)}"
            f"{_how_to_write(field, value)}"
        )
    if isinstance(value, str) and value not in _TEXTS.get(field.name, (value,)):
        raise ValueError(
            f"{field.name} takes {_described(field.type)}, of texts "
            f"{', '.join(_TEXTS[field.name])} alone. Received: {_shown(value)}"
        )
    low, high = _RANGES.get(field.name, (-math.inf, math.inf))
    outside = [each for each in _numbers(value) if not low <= each <= high]
    if outside:
        bounds = f"{low} or more" if high == math.inf else f"{low:g} to {high:g}"
        raise ValueError(f"{field.name} must be {bounds}. Received: {_shown(value)}")


def check_fields(config) -> None:
    """Refuses values that `check_value` refuses, and lengths that contradict.

    Args:
      config: a `TrainConfig`; without classes as long as no data set is read.

    Raises:
      ValueError: as above.
    """
    for field in dataclasses.fields(config):
        check_value(field, getattr(config, field.name))
    names = config.class_names
    count = config.num_classes or len(names)
    for name in ("class_names", "colormap", "class_weights"):
        value = getattr(config, name)
        if count and isinstance(value, tuple) and value and len(value) != count:
            raise ValueError(
                f"{name} needs one value for each of the {count} classes. "
                f"Received: {len(value)}, {_shown(value)}"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            "Expected a name of its own for each class. Received more than once: "
            f"{', '.join(twice[:10])}"
        )


def _fits(annotation: str, value) -> bool:
    return any(_fits_one(kind, value) for kind in annotation.split(" | "))


def _fits_one(kind: str, value) -> bool:
    if kind == "None":
        return value is None
    if kind.startswith("tuple["):
        items = kind[len("tuple[") : -1]
        if not isinstance(value, tuple):
            return False
        if items.endswith(", ..."):
            return all(_fits_one(items[: -len(", ...")], each) for each in value)
        kinds = items.split(", ")
        return len(kinds) == len(value) and all(map(_fits_one, kinds, value))
    if kind == "float":
        return _is_number(value) and math.isfinite(value)
    if kind == "int":
        return _is_number(value) and isinstance(value, int)
    return isinstance(value, {"str": str, "bool": bool}[kind])


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(value) -> list:
    if isinstance(value, tuple):
        return [number for each in value for number in _numbers(each)]
    return [value] if _is_number(value) else []


def _described(annotation: str) -> str:
    """ "tuple[int, ...] | None" -> "a list of whole numbers, or null"."""
    return ", or ".join(_described_one(kind) for kind in annotation.split(" | "))


def _described_one(kind: str) -> str:
    if not kind.startswith("tuple["):
        return _SCALARS[kind]
    items = kind[len("tuple[") : -1]
    if items.endswith(", ..."):
        each = _described_one(items[: -len(", ...")])
        return f"a list, each item of it {each}"
    return f"a list of {' and '.join(map(_described_one, items.split(', ')))}"


def _how_to_write(field: dataclasses.Field, value) -> str:
    """Of a list without quotes, how it is written; "" of all else."""
    if not (isinstance(value, str) and value.startswith("[") and "tuple" in field.type):
        return ""
    items = [item.strip(" \"'") for item in value.strip("[]").split(",")]
    if "str" not in field.type:
        return ""
    return f". Texts stand in quotes: '{field.name}={json.dumps(items)}'"


def _shown(value) -> str:
    text = json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= 120 else text[:120] + "..."
