"""How the learning rate goes with the updates of a run."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.command_names import did_you_mean
from deeplab_tf.config import TrainConfig


def make_schedule(config: TrainConfig):
    """The learning rate by update: a curve of `CURVES`, after a linear warm-up.

    Args:
      config: of the run, its steps counted.

    Raises:
      ValueError: see `check_schedule`, or a warm-up that does not fit in the run.
    """
    check_schedule(config)
    updates = -(-config.steps // config.accumulation_steps)
    longest = updates - 1 if config.decay_after_warmup else updates
    if not 0 <= config.warmup_steps <= longest:
        raise ValueError(
            f"warmup_steps must be in [0, {longest}] in a run of {updates} updates. "
            f"Received: {config.warmup_steps}"
        )
    delay = config.warmup_steps if config.decay_after_warmup else 0
    curve = CURVES[config.schedule](config, updates - delay)
    if not config.warmup_steps:
        return curve
    return WarmUp(curve, config.warmup_steps, config.warmup_fraction, delay)


def check_schedule(config: TrainConfig) -> None:
    """Returns where there is such a schedule; the run's steps need not be known.

    Raises:
      ValueError: unknown schedule, or an option that this one has not.
    """
    if config.schedule not in CURVES:
        raise ValueError(
            f"schedule must be one of {sorted(CURVES)}. Received: "
            f"{config.schedule!r}.{did_you_mean(config.schedule, CURVES)}"
        )
    if config.schedule == "step" and config.end_fraction:
        raise ValueError(
            "Steps of 0.1 have no end that could be chosen: leave end_fraction at 0, "
            "or take schedule=poly or cosine. Received: end_fraction="
            f"{config.end_fraction}"
        )


def _poly(config: TrainConfig, updates: int):
    return PolySchedule(
        config.learning_rate,
        updates,
        config.poly_power,
        end_fraction=config.end_fraction,
    )


def _cosine(config: TrainConfig, updates: int):
    """Half a cosine down to end_fraction (SGDR, 1608.03983, eq. 5, no restarts)."""
    return keras.optimizers.schedules.CosineDecay(
        config.learning_rate, updates, config.end_fraction
    )


def _step(config: TrainConfig, updates: int):
    return keras.optimizers.schedules.ExponentialDecay(
        config.learning_rate, config.decay_steps, 0.1, staircase=True
    )


# Name -> makes the curve of a run of so many updates, which begins at the full rate.
CURVES = {"poly": _poly, "cosine": _cosine, "step": _step}


@keras.utils.register_keras_serializable("deeplab_tf")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a factor that rises linearly from `fraction` to 1.

    Args:
      schedule: what the rate is after `warmup_steps`.
      warmup_steps: steps until the factor is 1, >= 1.
      fraction: factor at step 0, in [0, 1].
      delay: steps by which the schedule begins later. At 0 it falls under the warm-up
        already, which joins it without a corner; at `warmup_steps` the rate rises to
        its first value and falls from there.
    """

    def __init__(self, schedule, warmup_steps: int, fraction=0.0, delay: int = 0):
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.fraction = fraction
        self.delay = delay

    def __call__(self, step):
        step = tf.cast(tf.convert_to_tensor(step), keras.backend.floatx())
        factor = _rise(step, self.warmup_steps, self.fraction)
        rate = self.schedule(tf.maximum(step - self.delay, 0.0))
        return tf.cast(rate, factor.dtype) * factor

    def get_config(self):
        return {
            "schedule": keras.optimizers.schedules.serialize(self.schedule),
            "warmup_steps": self.warmup_steps,
            "fraction": self.fraction,
            "delay": self.delay,
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(**{**config, "schedule": schedule})


def _rise(step, warmup_steps: int, fraction: float):
    """From `fraction` at step 0 to 1 at `warmup_steps`, and 1 from there on."""
    done = tf.minimum(step / warmup_steps, 1.0)
    return fraction + (1.0 - fraction) * done


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
      end_fraction: the rate after the last step over the base rate, in [0, 1]; the
        curve is stretched to it.
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int,
        power: float = 0.9,
        warmup_steps: int = 0,
        warmup_fraction: float = 0.0,
        end_fraction: float = 0.0,
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
        self.end_fraction = end_fraction

    def __call__(self, step):
        step = tf.cast(tf.convert_to_tensor(step), keras.backend.floatx())
        left = tf.pow(tf.maximum(1.0 - step / self.steps, 0.0), self.power)
        rate = self.learning_rate * (
            self.end_fraction + (1.0 - self.end_fraction) * left
        )
        if not self.warmup_steps:
            return rate
        return rate * _rise(step, self.warmup_steps, self.warmup_fraction)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "power": self.power,
            "warmup_steps": self.warmup_steps,
            "warmup_fraction": self.warmup_fraction,
            "end_fraction": self.end_fraction,
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
