"""What XLA compiles gives the numbers that it gives without."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.evaluation.metrics import MeanIoU
from deeplab_tf.networks.models import AUXILIARY_HEAD, MODELS, build_model
from deeplab_tf.networks.precision import precision_policy
from deeplab_tf.training import compiling
from deeplab_tf.training.losses import SegmentationLoss
from tests.support.networks import image_batch, randomize, small_config

ROOT = Path(__file__).resolve().parent.parent
STEPS = 5
# Of images of 33 pixels the cascade's blocks have two values a channel to normalise by:
# larger steps part by rounding alone.
LEARNING_RATES = {"deeplab_v3_cascade": 1e-6}
# Name -> fields of the run.
OPTIONS = {
    "hard pixels, class weights": {
        "hard_pixel_fraction": 0.3,
        "hard_mining_steps": 4,
        "class_weights": (1.0, 2.0, 1.0, 1.0, 0.5),
    },
    "label stride": {"label_stride": 8},
    "dropout": {"dropout_rate": 0.3},
    "frozen BatchNorm": {"frozen_batch_norm": True},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "gradient steps": {
        "accumulation_steps": 2,
        "clip_norm": 1.0,
        "ema_momentum": 0.9,
        "head_multiplier": 10.0,
    },
    "adamw": {
        "optimizer": "adamw",
        "decoupled_weight_decay": 0.01,
        "head_multiplier": 2.0,
        "head_layers": "head",
        "backbone_multiplier": 0.5,
    },
    "cosine": {"schedule": "cosine", "warmup_steps": 2, "decay_after_warmup": True},
}


def history(config, jit_compiled: bool) -> dict[str, list[float]]:
    """Loss and metrics of every step of `fit` on seeded batches."""
    keras.utils.set_random_seed(0)
    with precision_policy(config.precision):
        model = randomize(build_model(config, auxiliary_outputs=True))
        compiling.compile_model(model, config)
    if jit_compiled:
        compiling.jit_compile_training(model)
    image = image_batch(33, 33, 2 * STEPS)
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3]).astype("int32")
    label[:, :5] = config.ignore_label
    batches = tf.data.Dataset.from_tensor_slices((image, label)).batch(2).repeat()
    return model.fit(
        compiling.label_outputs(model, batches),
        epochs=STEPS,
        steps_per_epoch=1,
        verbose=0,
    ).history


@pytest.mark.parametrize(
    "model, option",
    [
        *(pytest.param(m, None, marks=pytest.mark.slow) for m in MODELS),
        *(pytest.param("deeplab_v3", o, marks=pytest.mark.slow) for o in OPTIONS),
    ],
)
def test_losses_are_those_without(model, option):
    config = small_config(
        model,
        steps=STEPS,
        auxiliary_head=model in AUXILIARY_HEAD and option is None,
        learning_rate=LEARNING_RATES.get(model, 1e-4),
        **OPTIONS.get(option, {}),
    )
    plain, compiled = history(config, False), history(config, True)
    assert compiled.keys() == plain.keys()
    # XLA keeps more digits between operations of half precision.
    tolerance = 0.1 if "float16" in config.precision else 1e-4
    for name, values in plain.items():
        difference = np.abs(np.subtract(compiled[name], values)).max()
        print(f"| {model} | {option or '-'} | {name} | {difference:.1e} |")
        # Scores come in steps: a pixel whose classes tie to rounding.
        assert difference < (0.01 if "mean_iou" in name else tolerance), name


@pytest.mark.slow
def test_fit_as_in_the_readme():
    """`compile(jit_compile=True)`, which Keras 3 does by itself where it sees a GPU."""
    image = image_batch(33, 33, 4)
    label = np.random.default_rng(0).integers(0, 5, (4, 33, 33)).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((image, label)).batch(2)
    results = []
    for jit_compile in (False, True):
        model = randomize(build_model(small_config()))
        model.compile(
            keras.optimizers.SGD(1e-4),
            loss=SegmentationLoss(ignore_label=255),
            metrics=[MeanIoU(5)],
            jit_compile=jit_compile,
        )
        results.append(
            model.fit(data, epochs=3, validation_data=data, verbose=0).history
        )
    plain, compiled = results
    assert compiled.keys() == plain.keys()
    for name, values in plain.items():
        np.testing.assert_allclose(compiled[name], values, atol=1e-4, err_msg=name)


def test_the_metric_counts_the_same_pixels():
    label = np.random.default_rng(0).integers(0, 6, (2, 40, 40)).astype("int32")
    label[label == 5] = 255
    logits = np.random.default_rng(1).normal(size=(2, 40, 40, 5)).astype("float32")
    plain, compiled = MeanIoU(5), MeanIoU(5)
    plain.update_state(label, logits)

    @tf.function(jit_compile=True)
    def update():
        compiled.update_state(label, logits)

    update()
    np.testing.assert_array_equal(
        np.asarray(compiled.confusion), np.asarray(plain.confusion)
    )
    assert np.asarray(plain.confusion).sum() == (label != 255).sum()


@pytest.mark.slow
def test_validation_at_many_sizes_compiles_nothing(tmp_path):
    """50 sizes of validation beside training steps of one: XLA's own count."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.run_many_sizes", "50"],
        env={
            **os.environ,
            "PYTHONPATH": ".",
            "XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "50 sizes" in done.stdout
    modules = {path.name.split(".")[0] for path in tmp_path.glob("module_*")}
    assert len(modules) == 1, sorted(modules)
