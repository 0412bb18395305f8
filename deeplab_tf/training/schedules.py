"""How the learning rate goes with the updates of a run."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import TrainConfig


def make_schedule(config: TrainConfig):
    """The learning rate by update: poly after a linear warm-up, or in steps of 0.1.

    Args:
      config: of the run.

    Raises:
      ValueError: unknown schedule, or a warm-up before "step".
    """
    if config.schedule == "step" and not config.warmup_steps:
        return keras.optimizers.schedules.ExponentialDecay(
            config.learning_rate, config.decay_steps, 0.1, staircase=True
        )
    if config.schedule != "poly":
        raise ValueError(
            'schedule must be "poly", or "step" without warmup_steps. Received: '
            f"schedule={config.schedule!r}, warmup_steps={config.warmup_steps}"
        )
    return PolySchedule(
        config.learning_rate,
        -(-config.steps // config.accumulation_steps),
        config.poly_power,
        config.warmup_steps,
    )


@keras.utils.register_keras_serializable("deeplab_tf")
class PolySchedule(keras.optimizers.schedules.LearningRateSchedule):
    """learning_rate * (1 - step / steps) ** power (DeepLabV3, section 4.1).

    During the first `warmup_steps` that is multiplied by a factor that rises linearly
    from `warmup_fraction` to 1, so the warm-up joins the curve without a jump.

    Args:
      learning_rate: base rate, > 0.
      steps: steps until the rate is 0, >= 1; it stays 0 from there on.
      power: exponent, 0.9 in the papers.
      warmup_steps: steps of the warm-up; 0 for none.
      warmup_fraction: factor at step 0, in [0, 1].
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int,
        power: float = 0.9,
        warmup_steps: int = 0,
        warmup_fraction: float = 0.0,
    ):
        super().__init__()
        if steps < 1 or not 0 <= warmup_steps <= steps:
            raise ValueError(
                "steps must be >= 1 and warmup_steps in [0, steps]. Received: "
                f"steps={steps}, warmup_steps={warmup_steps}"
            )
        self.learning_rate = learning_rate
        self.steps = steps
        self.power = power
        self.warmup_steps = warmup_steps
        self.warmup_fraction = warmup_fraction

    def __call__(self, step):
        step = tf.cast(tf.convert_to_tensor(step), keras.backend.floatx())
        rate = self.learning_rate * (
            tf.pow(tf.maximum(1.0 - step / self.steps, 0.0), self.power)
        )
        if not self.warmup_steps:
            return rate
        done = tf.minimum(step / self.warmup_steps, 1.0)
        return rate * (self.warmup_fraction + (1.0 - self.warmup_fraction) * done)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "power": self.power,
            "warmup_steps": self.warmup_steps,
            "warmup_fraction": self.warmup_fraction,
        }


class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a factor."""

    def __init__(self, schedule, factor: float):
        super().__init__()
        self.schedule = schedule
        self.factor = factor

    def __call__(self, step):
        return self.factor * self.schedule(step)

    def get_config(self):
        return {"schedule": self.schedule, "factor": self.factor}


def current_learning_rate(optimizer) -> float:
    """The learning rate of an optimizer's next update, or in Keras 2 of its last."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = optimizer.learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(optimizer.iterations)
    return float(tf.convert_to_tensor(rate))
