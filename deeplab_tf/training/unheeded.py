"""Which fields of a configuration a run does not heed."""

from __future__ import annotations

import dataclasses
import inspect

from deeplab_tf.config import TrainConfig
from deeplab_tf.networks.models import MODELS

# Field -> the one without which it does nothing.
_ONLY_WITH = {
    "teacher_weight": "teacher",
    "teacher_temperature": "teacher",
    "warmup_fraction": "warmup_steps",
}


def unheeded_warnings(config: TrainConfig) -> list[str]:
    """Says which fields were set to a value and change nothing; [] where all count.

    Losses, optimizers and auxiliary heads refuse such fields; here a workdir may hold
    some that goes on.

    Args:
      config: of a run.
    """
    arguments = {
        model: inspect.signature(build).parameters for model, build in MODELS.items()
    }
    warnings = []
    for field in dataclasses.fields(TrainConfig):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        having = [model for model in MODELS if field.name in arguments[model]]
        needed = _ONLY_WITH.get(field.name)
        if having and config.model not in having:
            reason = f"{config.model} has none, unlike {', '.join(having)}"
        elif needed and not getattr(config, needed):
            reason = f"it counts with {needed} alone"
        else:
            continue
        warnings.append(f"{field.name}={value!r} changes nothing: {reason}.")
    return warnings
