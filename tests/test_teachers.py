"""A network taught by another one: the numbers, what is kept, what is refused."""

import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.commands import run_config
from deeplab_tf.config import read_config, write_config
from deeplab_tf.devices.expected_time import PASSES
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.multiply_adds import multiply_adds
from deeplab_tf.networks.weight_files import named_weights, read_weights, save_weights
from deeplab_tf.training import compiling, loop, resuming, strategies
from deeplab_tf.training.losses.distillation import distillation_loss
from deeplab_tf.training.teachers import check_teacher, load_teacher
from tests.support.networks import (
    assert_same_arrays,
    image_batch,
    randomize,
    small_config,
)

pytestmark = pytest.mark.two_lanes

NAMES = ("road", "car", "sky", "tree", "pole")
ORDER = [3, 0, 4, 1, 2]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The workdir of a network that knows NAMES, at another output stride."""
    folder = tmp_path_factory.mktemp("teacher")
    config = small_config(output_stride=8, atrous_rates=(), class_names=NAMES)
    write_config(config, folder)
    save_weights(randomize(build_model(config), 1), folder / "best.npz")
    return folder


def taught(teacher, model="deeplab_v3", **changes):
    """The configuration of a student that takes plain gradient steps."""
    options = {
        "class_names": NAMES,
        "atrous_rates": None if model == "deeplab_v2" else (),
        "momentum": 0.0,
        "learning_rate": 0.1,
        "poly_power": 0.0,
        "steps": 4,
        "teacher": str(teacher),
        "teacher_weight": 3.0,
        "teacher_temperature": 2.0,
    }
    return check_teacher(small_config(model, **{**options, **changes}))


def batch(seed=0):
    label = np.random.default_rng(seed).integers(0, 5, (2, 33, 33)).astype("int32")
    label[0, :20] = 255
    return image_batch(33, 33, 2, seed), label


def student(config, with_teacher=True):
    """A compiled student, on seeded weights."""
    model = randomize(build_model(config, auxiliary_outputs=True))
    compiling.compile_model(
        model, config, load_teacher(config) if with_teacher else None
    )
    return model


def trained(config, with_teacher):
    """(a student after a step of gradient descent, loss of the step)."""
    model = student(config, with_teacher)
    return model, model.fit(labelled(model), verbose=0).history["loss"][0]


def labelled(model):
    return compiling.label_outputs(model, tf.data.Dataset.from_tensors(batch()))


def validation_loss(model):
    return model.evaluate(labelled(model), verbose=0, return_dict=True)["loss"]


def test_distillation_by_hand():
    """2 x 2 pixels, one of them void, two classes; softmaxes of logits / T."""
    label = np.array([[[0, 1], [255, 1]]])
    logits = np.array([[[[0, 0], [1, 3]], [[9, 0], [0, 2]]]], np.float32)
    teacher = np.array([[[[2, 0], [1, 3]], [[0, 9], [2, 0]]]], np.float32)

    def share(difference):  # of the first of two classes
        return 1 / (1 + np.exp(-difference / 2))

    def divergence(t, s):
        return t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s))

    pixels = [divergence(share(2), 0.5), 0.0, divergence(share(2), share(-2))]
    pupil = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = distillation_loss(label, pupil, teacher, 2.0, 255)
    assert float(loss) == pytest.approx(4 * sum(pixels) / 3, rel=1e-6)
    gradient = tape.gradient(loss, pupil).numpy()
    first = 2 * (0.5 - share(2)) / 3  # T * (student - teacher) / pixels
    np.testing.assert_allclose(gradient[0, 0, 0], [first, -first], rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 0, 1], 0, atol=1e-7)
    np.testing.assert_array_equal(gradient[0, 1, 0], [0, 0])
    void = np.full_like(label, 255)
    assert float(distillation_loss(void, logits, teacher, 2.0, 255)) == 0.0
    strided = distillation_loss(label, logits, teacher, 2.0, 255, label_stride=2)
    assert float(strided) == pytest.approx(4 * pixels[0], rel=1e-6)


@pytest.mark.parametrize(
    "model", ["deeplab_v3", pytest.param("deeplab_v2", marks=pytest.mark.slow)]
)
def test_a_step_goes_further_by_the_gradient_of_the_teachers_term(model, teacher):
    """Also with auxiliary outputs, which V2's scales are; validation is on labels."""
    config = taught(teacher, model)
    (model, loss), (plain, loss_on_labels) = (
        trained(config, True),
        trained(config, False),
    )
    image, label = batch()
    twin = randomize(build_model(config, auxiliary_outputs=True))
    kernel = twin.get_layer("tiny_stem_conv").kernel
    with tf.GradientTape() as tape:
        outputs = twin(image, training=True)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        said = load_teacher(config).network(image)
        term = 3.0 * distillation_loss(label, logits, said, 2.0, 255)
    gradient = tape.gradient(term, kernel)
    assert loss - loss_on_labels == pytest.approx(float(term), rel=1e-3)
    kernels = [m.get_layer("tiny_stem_conv").get_weights()[0] for m in (model, plain)]
    further = kernels[0] - kernels[1]
    largest = np.abs(further).max()
    assert largest > 1e-4
    np.testing.assert_allclose(further, -0.1 * gradient, atol=1e-2 * largest)
    plain.set_weights(model.get_weights())
    assert validation_loss(model) == pytest.approx(validation_loss(plain), rel=1e-5)


def test_a_teacher_is_asked_by_the_names_of_its_classes(teacher):
    image, _ = batch()
    names = tuple(NAMES[i] for i in ORDER)
    there = load_teacher(taught(teacher)).logits(image).numpy()
    here = load_teacher(taught(teacher, class_names=names)).logits(image).numpy()
    np.testing.assert_array_equal(here, there[..., ORDER])


def variables_of(workdir):
    (name,) = os.listdir(workdir / "checkpoints")
    found = tf.train.list_variables(str(workdir / "checkpoints" / name / "state"))
    return sorted(name for name, _ in found)


def test_nothing_of_a_teacher_is_in_the_students_files(teacher, tmp_path):
    config = taught(teacher)
    models = student(config), student(config, with_teacher=False)
    assert named_weights(models[0]).keys() == named_weights(models[1]).keys()
    for index, model in enumerate(models):
        resuming.ResumableRun(str(tmp_path / str(index)), model).save()
    assert variables_of(tmp_path / "0") == variables_of(tmp_path / "1")


class Batches:
    """Data of a run that lies in no records."""

    steps_per_epoch, num_validation, num_skipped = 2, 2, 0

    def train_batches(self, start_step=0):
        parts = zip(*(batch(step) for step in range(4)))
        images, labels = (np.stack(part) for part in parts)
        data = tf.data.Dataset.from_tensor_slices((images, labels))
        return data.repeat().skip(start_step)

    def validation_batches(self, batch_size=1):
        return tf.data.Dataset.from_tensors(batch(9))

    def panels(self):
        return []


@pytest.mark.one_lane
def test_a_taught_run_that_was_stopped_ends_with_the_same_weights(
    teacher, tmp_path, capsys, monkeypatch
):
    config = taught(teacher, crop_size=(33, 33), batch_size=2, epochs=2)
    strategy = strategies.make_strategy("default")
    loop.train(config, Batches(), str(tmp_path / "whole"), strategy)
    stop = resuming.ResumableRun.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        if self.step == 2:
            self.request_stop("a test")
        stop(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(resuming.ResumableRun, "on_train_batch_end", on_train_batch_end)
        with pytest.raises(resuming.RunStopped):
            loop.train(config, Batches(), str(tmp_path / "broken"), strategy)
    loop.train(config, Batches(), str(tmp_path / "broken"), strategy)
    said = f"Taught by {teacher}: deeplab_v3 on tiny, "
    assert capsys.readouterr().out.count(said) == 3
    assert_same_arrays(
        *(read_weights(tmp_path / name / "last.npz") for name in ("broken", "whole"))
    )


def test_time_on_a_cpu_counts_the_teacher_once(teacher, monkeypatch):
    recipe = "deeplab_v3_voc2012_stage1"
    config = taught(teacher, recipe=recipe, crop_size=(33, 33))
    asked = []
    monkeypatch.setattr(loop, "convolution_rate", lambda precision: 1.0)
    monkeypatch.setattr(loop, "warn_of_cpu", lambda *given: asked.append(given[3]))
    model, known = build_model(config), load_teacher(config)
    loop.cpu_warnings(model, config, ["CPU:0"])
    loop.cpu_warnings(model, config, ["CPU:0"], known)
    assert asked[1] - asked[0] == multiply_adds(known.network, 33, 33) // PASSES


def test_a_run_knows_its_teacher_by_the_sum_of_its_weights(teacher, tmp_path):
    config = taught(teacher)
    assert len(config.teacher_sha256) == 64
    assert json.loads(config.to_json())["teacher"] == str(teacher)
    assert check_teacher(config) == config
    known = read_config(teacher)
    write_config(known, tmp_path / "teacher")
    other = randomize(build_model(known), 2)
    save_weights(other, tmp_path / "teacher" / "best.npz")
    changed = dataclasses.replace(config, teacher=str(tmp_path / "teacher"))
    with pytest.raises(ValueError, match="are not those that .*began with: .*Received"):
        check_teacher(changed)


def test_a_teacher_that_is_gone_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no workdir of a teacher at .*gone. T"):
        taught(tmp_path / "gone")
    write_config(small_config(class_names=NAMES), tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no weights yet"):
        taught(tmp_path)


def test_a_teacher_of_other_classes_is_refused(teacher):
    names = (*NAMES[:4], "bus")
    with pytest.raises(ValueError, match="of the classes .*, bus. .* knows .*, pole"):
        taught(teacher, class_names=names)
    with pytest.raises(ValueError, match="of the classes .*, tree. .* knows .*, pole"):
        taught(teacher, class_names=NAMES[:4], num_classes=4)


def test_a_backbone_cannot_teach(tmp_path):
    config = small_config(recipe="tiny_weights")
    write_config(config, tmp_path)
    keras.utils.set_random_seed(0)
    save_weights(build_model(config), tmp_path / "best.npz")
    with pytest.raises(ValueError, match="cannot teach: only its backbone was trained"):
        run_config.resolve_teacher(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_xla_gives_the_same_step(precision, teacher):
    steps = []
    for jit_compile in (False, True):
        config = taught(teacher, precision=precision, jit_compile=jit_compile)
        steps.append(trained(config, True)[1])
    assert steps[1] == pytest.approx(
        steps[0], rel=1e-4 if precision == "float32" else 0.02
    )
