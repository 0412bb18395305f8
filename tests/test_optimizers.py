"""Optimizers by hand, against separate ones, and on two replicas.

Run as a script, this file trains on one device and on two logical CPUs and prints how
far their weights are apart.
"""

import functools
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf import DeepLabV3
from deeplab_tf.config import TrainConfig
from deeplab_tf.networks.blocks import layer_defaults
from deeplab_tf.networks.layers import is_keras3
from deeplab_tf.training.averaging import JudgedEvaluation, averaged_weights
from deeplab_tf.training.gradient_steps import loss_scaled, variable_name
from deeplab_tf.training.losses import LOSSES, SegmentationLoss, make_loss
from deeplab_tf.training.optimizers import (
    build_optimizer,
    make_optimizer,
    undecayed_variables,
)
from deeplab_tf.training.schedules import (
    PolySchedule,
    current_learning_rate,
    make_schedule,
)
from deeplab_tf.training.teachers import Teacher

ROOT = Path(__file__).resolve().parent.parent
ADDONS_LANE = tf.__version__.startswith("2.15")
needs_addons = pytest.mark.skipif(not ADDONS_LANE, reason="needs tensorflow-addons")


def head_multiplier(name):
    """DeepLabV2: the classifier at 10 times the rate, its bias at 20 times."""
    if not name.startswith("logits/"):
        return 1.0
    return 20.0 if name.endswith("bias") else 10.0


def small_model():
    keras.utils.set_random_seed(0)
    image = keras.Input([9, 9, 3])
    x = keras.layers.Conv2D(4, 3, padding="same", name="features")(image)
    return keras.Model(image, keras.layers.Conv2D(3, 1, name="logits")(x))


def small_data(batches=4):
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, [batches * 4, 9, 9, 3]).astype("float32")
    label = rng.integers(0, 3, [batches * 4, 9, 9]).astype("int32")
    for index in range(len(label)):  # replicas see different numbers of valid pixels
        label[index, 1 + index * 5 % 8 :] = 255
    return image, label


def gradients(model, image, label):
    with tf.GradientTape() as tape:
        loss = SegmentationLoss()(label, model(image))
    return tape.gradient(loss, model.trainable_variables)


def train(model, optimizer, batches):
    for image, label in batches:
        optimizer.apply_gradients(
            zip(gradients(model, image, label), model.trainable_variables)
        )


def assert_same_weights(model, expected, rtol=0, atol=0):
    weights = model.get_weights()
    assert len(weights) == len(expected.get_weights()) > 0
    for ours, other in zip(weights, expected.get_weights()):
        np.testing.assert_allclose(ours, other, rtol=rtol, atol=atol)


def batches_of_4(count=4):
    image, label = small_data(count)
    return [(image[i : i + 4], label[i : i + 4]) for i in range(0, 4 * count, 4)]


def test_poly_schedule_by_hand():
    schedule = PolySchedule(0.007, 30_000)
    assert float(schedule(0)) == pytest.approx(0.007)
    assert float(schedule(15_000)) == pytest.approx(0.007 * 0.5**0.9)
    assert float(schedule(30_000)) == 0.0
    assert float(schedule(30_001)) == 0.0
    keras_own = keras.optimizers.schedules.PolynomialDecay(0.007, 30_000, 0.0, 0.9)
    for step in (1, 777, 29_999):
        assert float(schedule(step)) == pytest.approx(float(keras_own(step)), rel=1e-5)


def test_warm_up_is_linear_and_joins_the_curve():
    warm = PolySchedule(0.1, 1000, power=1.0, warmup_steps=100, warmup_fraction=0.2)
    assert float(warm(0)) == pytest.approx(0.1 * 0.2)
    assert float(warm(50)) == pytest.approx(0.1 * 0.6 * 0.95)
    assert float(warm(100)) == pytest.approx(0.1 * 0.9)
    assert float(warm(500)) == pytest.approx(0.1 * 0.5)
    assert float(PolySchedule(0.1, 10, warmup_steps=5)(0)) == 0.0
    copy = keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(warm)
    )
    assert float(copy(50)) == float(warm(50))


def test_warm_up_must_fit_in_the_run():
    with pytest.raises(ValueError, match="warmup_steps=11"):
        PolySchedule(0.1, 10, warmup_steps=11)


def rates(steps, **changes):
    schedule = make_schedule(TrainConfig(learning_rate=0.1, steps=100, **changes))
    return [float(schedule(step)) for step in steps]


def test_cosine_schedule_by_hand():
    steps = [0, 25, 50, 100, 101]
    expected = [0.1, 0.05 * (1 + 0.5**0.5), 0.05, 0.0, 0.0]
    assert rates(steps, schedule="cosine") == pytest.approx(
        expected, rel=1e-5, abs=1e-8
    )
    ended = [0.01 + 0.9 * rate for rate in expected]
    assert rates(steps, schedule="cosine", end_fraction=0.1) == pytest.approx(
        ended, rel=1e-5
    )
    halved = rates(range(0, 51, 5), schedule="cosine", accumulation_steps=2)
    assert halved == pytest.approx(
        rates(range(0, 101, 10), schedule="cosine"), rel=1e-5, abs=1e-8
    )


def test_poly_schedule_that_ends_above_zero():
    ended = rates([0, 50, 100, 200], poly_power=1.0, end_fraction=0.2)
    assert ended == pytest.approx([0.1, 0.06, 0.02, 0.02], rel=1e-5)


@pytest.mark.parametrize("schedule", ["poly", "cosine", "step"])
def test_a_schedule_begins_before_or_after_its_warm_up(schedule):
    options = {"schedule": schedule, "decay_steps": 30}
    warm = {"warmup_steps": 20, "warmup_fraction": 0.5}
    steps = range(0, 101, 10)
    factors = [0.5, 0.75] + [1.0] * 9
    under = [f * rate for f, rate in zip(factors, rates(steps, **options))]
    assert rates(steps, **options, **warm) == pytest.approx(under, rel=1e-5)
    whole = make_schedule(TrainConfig(learning_rate=0.1, steps=80, **options))
    after = [0.05, 0.075] + [float(whole(step)) for step in range(0, 81, 10)]
    joined = rates(steps, **options, **warm, decay_after_warmup=True)
    assert joined == pytest.approx(after, rel=1e-5)


def test_warm_up_before_a_cosine_is_that_of_keras():
    keras_own = keras.optimizers.schedules.CosineDecay(
        0.02, 70, 0.1, warmup_target=0.1, warmup_steps=30
    )
    ours = rates(
        range(101),
        schedule="cosine",
        end_fraction=0.1,
        warmup_steps=30,
        warmup_fraction=0.2,
        decay_after_warmup=True,
    )
    expected = [float(keras_own(step)) for step in range(101)]
    assert ours == pytest.approx(expected, rel=1e-5)


def test_a_warm_up_of_any_schedule_can_be_saved():
    schedules = keras.optimizers.schedules
    warm = make_schedule(
        TrainConfig(schedule="cosine", steps=9, warmup_steps=4, decay_after_warmup=True)
    )
    copy = schedules.deserialize(schedules.serialize(warm))
    assert [float(copy(s)) for s in range(9)] == [float(warm(s)) for s in range(9)]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"schedule": "cosin"}, "cosine.*'cosin'. Did you mean cosine?"),
        ({"schedule": "step", "end_fraction": 0.1}, "no end .* Received: end_fr.*0.1"),
        ({"warmup_steps": 101}, r"in \[0, 100\] in a run of 100 upd.* Received: 101"),
        ({"warmup_steps": 100, "decay_after_warmup": True}, r"in \[0, 99\].*: 100"),
    ],
)
def test_schedules_that_cannot_be_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        rates([0], **changes)


@pytest.mark.parametrize(
    "name, options",
    [
        ("sgd", {}),
        ("sgd", {"weight_decay": 0.1}),
        ("adam", {}),
        ("adamw", {"weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.1, "accumulation_steps": 1, "ema_momentum": 0.5}),
        ("rmsprop", {}),
    ],
)
def test_multipliers_equal_an_optimizer_for_each_rate(name, options):
    """Whichever the optimizer: Adam would cancel a factor of its gradient."""
    model, twin = small_model(), small_model()

    def made(factor, **more):
        schedule = PolySchedule(0.01 * factor, 6, warmup_steps=2, warmup_fraction=0.5)
        return make_optimizer(name, schedule, **more)

    optimizer = made(1.0, multipliers=head_multiplier, **options)
    decay = {key: v for key, v in options.items() if key == "weight_decay"}
    separate = {factor: made(factor, **decay) for factor in (1.0, 10.0, 20.0)}
    for image, label in batches_of_4(4):
        train(model, optimizer, [(image, label)])
        pairs = list(zip(gradients(twin, image, label), twin.trainable_variables))
        for factor, own in separate.items():
            own.apply_gradients(
                [p for p in pairs if head_multiplier(variable_name(p[1])) == factor]
            )
    assert_same_weights(model, twin, rtol=1e-4, atol=1e-5)
    last = 4 if is_keras3() else 3  # Keras 2 tells the rate of the last update
    assert current_learning_rate(optimizer) == pytest.approx(
        0.01 * (1 - last / 6) ** 0.9
    )


def test_clipping_comes_before_the_multiplier():
    model = small_model()
    before = model.get_weights()
    train(
        model,
        make_optimizer(
            "SGD", 1.0, clip_norm=1e-3, multipliers=head_multiplier, momentum=0.0
        ),
        batches_of_4(1),
    )
    names = [variable_name(variable) for variable in model.trainable_variables]
    steps = [
        (new - old) / head_multiplier(name)
        for name, new, old in zip(names, model.get_weights(), before)
    ]
    norm = np.sqrt(sum(np.square(step).sum() for step in steps))
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_accumulated_batches_make_one_step_of_their_mean_gradient():
    model, twin = small_model(), small_model()
    optimizer = make_optimizer("sgd", 0.1, accumulation_steps=2)
    data = batches_of_4(5)
    train(model, optimizer, data)
    own = keras.optimizers.SGD(0.1, 0.9)
    for one, two in ((data[0], data[1]), (data[2], data[3])):
        pairs = zip(gradients(twin, *one), gradients(twin, *two))
        means = [(a + b) / 2 for a, b in pairs]
        own.apply_gradients(zip(means, twin.trainable_variables))
    assert int(optimizer.iterations.numpy()) == 2  # the fifth batch waits
    assert_same_weights(model, twin, rtol=1e-5, atol=1e-6)


def test_average_of_weights_by_hand():
    model = small_model()
    model.compile(make_optimizer("sgd", 0.1, ema_momentum=0.75))
    expected = None
    with averaged_weights(model):  # no update yet: nothing to swap
        assert np.abs(model.get_weights()[0]).max() > 0
    for batch in batches_of_4(3):
        train(model, model.optimizer, [batch])
        weights = model.get_weights()
        if expected is None:
            expected = weights
        expected = [0.75 * old + 0.25 * new for old, new in zip(expected, weights)]
    with averaged_weights(model):
        for ours, average in zip(model.get_weights(), expected):
            np.testing.assert_allclose(ours, average, rtol=1e-5, atol=1e-7)
    for ours, trained in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(ours, trained)


def test_fit_validates_the_average_and_ends_with_the_trained_weights():
    image, label = small_data()
    seen = {}
    for momentum in (None, 0.9):
        model = small_model()
        optimizer = make_optimizer("sgd", 0.5, ema_momentum=momentum)
        model.compile(optimizer, SegmentationLoss())
        history = model.fit(
            image,
            label,
            batch_size=4,
            shuffle=False,
            validation_data=(image, label),
            callbacks=[JudgedEvaluation()],
            verbose=0,
        )
        seen[momentum] = model.get_weights(), history.history["val_loss"][0]
    for plain, averaged in zip(seen[None][0], seen[0.9][0]):
        np.testing.assert_allclose(averaged, plain, rtol=1e-6)
    with averaged_weights(model):
        expected = model.evaluate(image, label, batch_size=4, verbose=0)
    assert seen[0.9][1] == pytest.approx(expected, rel=1e-5)
    assert abs(seen[0.9][1] - seen[None][1]) > 1e-3


def all_options(**changes):
    options = {
        "clip_norm": 0.5,
        "ema_momentum": 0.9,
        "accumulation_steps": 2,
        "multipliers": head_multiplier,
    }
    return {**options, **changes}


def scaled_model(name="sgd", hard_pixel_fraction=1.0, **options):
    """A compiled model with loss scaling, its optimizer built."""
    model = small_model()
    optimizer = loss_scaled(make_optimizer(name, PolySchedule(0.1, 20), **options))
    loss = SegmentationLoss(
        hard_pixel_fraction=hard_pixel_fraction,
        hard_mining_steps=4,
        step=optimizer.iterations,
    )
    model.compile(optimizer, loss, jit_compile=False)
    build_optimizer(model.optimizer, model.trainable_variables)
    return model


def fit(model, batches):
    for image, label in batches:
        model.fit(image, label, batch_size=4, verbose=0)


def test_checkpoint_goes_on_in_the_middle_of_an_accumulation(tmp_path):
    data = batches_of_4(5)
    model = scaled_model("adam", 0.25, **all_options())
    fit(model, data[:3])
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(
        os.fspath(tmp_path / "checkpoint")
    )
    fit(model, data[3:])
    resumed = scaled_model("adam", 0.25, **all_options())
    tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(
        path
    ).assert_existing_objects_matched()
    fit(resumed, data[3:])
    assert_same_weights(resumed, model)
    with averaged_weights(resumed), averaged_weights(model):
        assert_same_weights(resumed, model)


def test_loss_scaling_leaves_the_step_as_it_is():
    plain = small_model()
    optimizer = make_optimizer("sgd", PolySchedule(0.1, 20), **all_options())
    train(plain, optimizer, batches_of_4(4))
    scaled = scaled_model(**all_options())
    fit(scaled, batches_of_4(4))
    # Two updates: Keras 3 tells the rate of the third, Keras 2 that of the second.
    step = 2 if is_keras3() else 1
    rate = current_learning_rate(scaled.optimizer)
    assert rate == pytest.approx(0.1 * (1 - step / 20) ** 0.9)
    assert_same_weights(scaled, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.two_lanes
def test_two_replicas_equal_one_device():
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["moved_by_infinity"] == 0.0
    assert results["trained"] > 1e-2
    assert max(results["apart"].values()) < 1e-5, results
    assert results["losses"].keys() == LOSSES.keys()
    assert max(results["losses"].values()) < 1e-12, results


@pytest.mark.parametrize(
    "name", ["adadelta", "adagrad", "Adam", "AdamW", "Nadam", "RMSprop"]
)
def test_every_name_of_keras_takes_a_step(name):
    model = small_model()
    before = model.get_weights()
    train(model, make_optimizer(name, 0.1, multipliers=lambda _: 2.0), batches_of_4(1))
    for old, new in zip(before, model.get_weights()):
        assert (old != new).any() and np.isfinite(new).all()


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match="adam.*lookahead.*Received: 'sdg'"):
        make_optimizer("sdg", 0.1)


@pytest.mark.skipif(ADDONS_LANE, reason="tensorflow-addons is installed")
def test_addons_name_says_which_lane_has_it():
    with pytest.raises(ImportError, match="'SWA' is in .*requirements-tf215.txt"):
        make_optimizer("SWA", 0.1)


def test_papers_decay_spares_batchnorm_biases_and_depthwise_kernels():
    """A step of nothing but the model's own decay: w <- w - lr * decay * w."""
    with layer_defaults(weight_decay=0.1):
        model = DeepLabV3(4, "mobilenet_v2_0.35", input_shape=(33, 33, 3))
    for variable in model.trainable_variables:
        variable.assign(tf.ones(variable.shape))
    optimizer = make_optimizer("sgd", 0.5, momentum=0.0)
    with tf.GradientTape() as tape:
        loss = tf.add_n(model.losses)
    variables = model.trainable_variables
    decay = [
        tf.zeros(v.shape) if gradient is None else gradient
        for gradient, v in zip(tape.gradient(loss, variables), variables)
    ]
    optimizer.apply_gradients(zip(decay, variables))
    decayed = set()
    for variable in variables:
        if (value := float(variable.numpy().flat[0])) != 1.0:
            decayed.add(variable_name(variable))
            assert value == pytest.approx(1 - 0.5 * 0.1, rel=1e-5)
    convolutions = {
        f"{layer.name}/kernel"
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
        and not isinstance(layer, keras.layers.DepthwiseConv2D)
    }
    assert decayed == convolutions
    spared = {variable_name(variable) for variable in undecayed_variables(model)}
    assert spared == {variable_name(v) for v in variables} - convolutions


def decayed_step(name, **options):
    """Weights after one step of gradient zero, all of them 1 before."""
    model = small_model()
    for variable in model.trainable_variables:
        variable.assign(tf.ones(variable.shape))
    optimizer = make_optimizer(
        name,
        PolySchedule(0.5, 10),
        weight_decay=0.1,
        undecayed=undecayed_variables(model),
        **options,
    )
    variables = model.trainable_variables
    optimizer.apply_gradients([(tf.zeros(v.shape), v) for v in variables])
    return {variable_name(v): float(v.numpy().flat[0]) for v in variables}


@pytest.mark.parametrize(
    "name",
    [
        "adamw",
        pytest.param("sgdw", marks=needs_addons),
        pytest.param("addons_adamw", marks=needs_addons),
    ],
)
def test_decoupled_decay_spares_biases(name):
    weights = decayed_step(name)
    assert weights["features/kernel"] == pytest.approx(1 - 0.5 * 0.1)
    assert weights["features/bias"] == weights["logits/bias"] == 1.0


@needs_addons
@pytest.mark.parametrize(
    "name", ["sgdw", "addons_adamw", "lamb", "lookahead", "MovingAverage", "swa"]
)
def test_addons_optimizers_train_and_checkpoint(tmp_path, name):
    data = batches_of_4(4)

    def made():
        model = small_model()
        optimizer = make_optimizer(
            name,
            PolySchedule(0.1, 20),
            clip_norm=0.5,
            multipliers=None if "adamw" in name or "lamb" in name else head_multiplier,
        )
        model.compile(optimizer, SegmentationLoss())
        build_optimizer(model.optimizer, model.trainable_variables)
        return model

    model = made()
    before = SegmentationLoss()(data[0][1], model(data[0][0]))
    fit(model, data[:2])
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(
        os.fspath(tmp_path / "checkpoint")
    )
    assert current_learning_rate(model.optimizer) == pytest.approx(0.1 * 0.9**0.9)
    train(model, model.optimizer, data[2:])
    assert SegmentationLoss()(data[0][1], model(data[0][0])) < before
    resumed = made()
    tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(
        path
    ).assert_existing_objects_matched()
    train(resumed, resumed.optimizer, data[2:])
    assert_same_weights(resumed, model)


@needs_addons
def test_addons_optimizers_lack_accumulation():
    with pytest.raises(ValueError, match="accumulation_steps.*Received: 'lamb'"):
        make_optimizer("lamb", 0.1, accumulation_steps=2)


@needs_addons
@pytest.mark.parametrize("name", ["addons_adamw", "lamb"])
def test_addons_optimizers_that_cancel_multipliers_refuse_them(name):
    with pytest.raises(ValueError, match="cancel mult.* Keras' .* Received: .*with"):
        make_optimizer(name, 0.1, multipliers=head_multiplier)


@needs_addons
@pytest.mark.parametrize("name, first", [("moving_average", 0.99), ("swa", 0.0)])
def test_addons_average_is_put_in_for_evaluation(name, first):
    """The average after one step: of the first weights and the trained ones."""
    model = small_model()
    start = model.get_weights()
    model.compile(make_optimizer(name, 0.5))
    train(model, model.optimizer, batches_of_4(1))
    trained = model.get_weights()
    with averaged_weights(model):
        for ours, old, new in zip(model.get_weights(), start, trained):
            np.testing.assert_allclose(
                ours, first * old + (1 - first) * new, rtol=1e-5, atol=1e-7
            )


@needs_addons
def test_sgdw_without_decay_is_sgd():
    model, twin = small_model(), small_model()
    options = {"clip_norm": 0.5, "multipliers": head_multiplier}
    train(model, make_optimizer("sgdw", 0.1, **options), batches_of_4(3))
    train(twin, make_optimizer("sgd", 0.1, **options), batches_of_4(3))
    assert_same_weights(model, twin, rtol=1e-5, atol=1e-6)


def full_loss(name, step):
    """A loss, or a sum, with everything switched on that its parts have."""
    options = {
        "class_weights": (1.0, 2.0, 0.5),
        "hard_pixel_fraction": 0.3,
        "hard_mining_steps": 2,
        "label_smoothing": 0.1,
        "boundary_width": 1,
        "ohem_threshold": 0.4,
        "ohem_min_kept": 9,
    }
    makers = [LOSSES[part] for part in name.split("+")]
    taken = {each for make in makers for each in inspect.signature(make).parameters}
    options = {option: options[option] for option in options if option in taken}
    return make_loss(TrainConfig(loss=name, **options), step)


def trained_weights(strategy, loss, scaled=False):
    """Weights, and their average, after four batches with everything switched on."""
    image, label = small_data()
    with strategy.scope():
        model = small_model()
        optimizer = make_optimizer(
            "sgd", PolySchedule(0.5, 20), weight_decay=0.02, **all_options()
        )
        if scaled:
            optimizer = loss_scaled(optimizer)
        model.compile(
            optimizer, full_loss(loss, optimizer.iterations), jit_compile=False
        )
        build_optimizer(model.optimizer, model.trainable_variables)
    start = model.get_weights()
    data = tf.data.Dataset.from_tensor_slices((image, label)).batch(4)
    model.fit(data, verbose=0)
    trained = model.get_weights()
    with averaged_weights(model):
        return start, trained + model.get_weights()


def loss_apart(name, strategy):
    """How far a loss and its gradient are from one device's, on two uneven replicas."""
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=[3, 9, 9, 3]), rng.integers(0, 3, [3, 9, 9])
    label[2, 3:] = 255
    loss = full_loss(name, None)

    def differentiated(label, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.reduce_mean(loss.call(label, logits))
        return value, tape.gradient(value, logits)

    def of_replica(context, array):
        images = [slice(2), slice(2, 3)][context.replica_id_in_sync_group]
        return tf.constant(array[images])

    given = [
        strategy.experimental_distribute_values_from_function(
            functools.partial(of_replica, array=array)
        )
        for array in (label, logits)
    ]
    run = tf.function(lambda *arrays: strategy.run(differentiated, arrays))
    values, gradients = map(strategy.experimental_local_results, run(*given))
    value, gradient = differentiated(label, tf.constant(logits))
    ours = np.mean(values), np.concatenate(gradients) / len(values)
    return max(float(np.abs(ours[0] - value)), float(np.abs(ours[1] - gradient).max()))


def taught_weights(strategy):
    """Weights after four batches beside a teacher that knows the classes otherwise."""
    image, label = small_data()
    with strategy.scope():
        model, network = small_model(), small_model()
        network.set_weights([weight + 0.1 for weight in network.get_weights()])
        optimizer = make_optimizer("sgd", PolySchedule(0.5, 20))
        model.compile(optimizer, SegmentationLoss(), jit_compile=False)
        config = TrainConfig(teacher_weight=2.0, teacher_temperature=2.0)
        Teacher(network, np.array([2, 0, 1])).teach(model, config)
    data = tf.data.Dataset.from_tensor_slices((image, label)).batch(4)
    loss = model.fit(data, verbose=0).history["loss"]
    return [*model.get_weights(), np.array(loss)]


def apart(ours, expected):
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, expected))


def moved_by_infinity(strategy):
    """How far a batch moves the weights whose second half overflows."""
    image, label = small_data(1)
    image[2:] = np.inf
    with strategy.scope():
        model = small_model()
        model.compile(loss_scaled(make_optimizer("sgd", 0.1)), SegmentationLoss())
    before = model.get_weights()
    model.fit(image, label, batch_size=4, shuffle=False, verbose=0)
    return apart(model.get_weights(), before)


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    loss, distances = "+".join(LOSSES), {}
    start, one = trained_weights(tf.distribute.get_strategy(), loss)
    for scaled in (False, True):
        _, two = trained_weights(mirrored, loss, scaled)
        distances[f"scaled: {scaled}"] = apart(two, one)
    distances["teacher"] = apart(
        taught_weights(mirrored), taught_weights(tf.distribute.get_strategy())
    )
    results = {
        "trained": apart(one, start),
        "apart": distances,
        "losses": {name: loss_apart(name, mirrored) for name in LOSSES},
        "moved_by_infinity": moved_by_infinity(mirrored),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
