"""Images in another range than 0..255: training and evaluation say so, once."""

import gc
import warnings
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf import (
    DeepLabV3,
    DeepLabV3Torchvision,
    SegmentationLoss,
    inference_model,
)
from deeplab_tf.networks.pixel_range import pixel_range, why_impossible, why_unlikely
from deeplab_tf.networks.segmentation_model import SegmentationModel
from deeplab_tf.training import compiling
from tests.support.networks import image_batch

pytestmark = pytest.mark.both_keras

LABEL = np.random.default_rng(0).integers(0, 3, [4, 33, 33]).astype("int32")
IMAGE = image_batch(33, 33, batch=4)


class Batches(keras.utils.Sequence):
    def __init__(self, image):
        super().__init__()
        self.image = image

    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(2 * index, 2 * index + 2)
        return self.image[part], LABEL[part]


def endless(image):
    while True:
        yield image[:2], LABEL[:2]


def dataset(image):
    return tf.data.Dataset.from_tensor_slices((image, LABEL)).batch(2)


FORMS = {
    "arrays": lambda image: {"x": image, "y": LABEL, "batch_size": 2},
    "dataset": lambda image: {"x": dataset(image)},
    "sequence": lambda image: {"x": Batches(image)},
    "generator": lambda image: {"x": endless(image), "steps_per_epoch": 2},
    "named": lambda image: {
        "x": dataset(image).map(lambda image, label: ({"image": image}, label))
    },
}


@pytest.fixture(scope="module")
def model():
    model = DeepLabV3(3, backbone="tiny")
    assert isinstance(inference_model(model), SegmentationModel)
    model.compile("sgd", SegmentationLoss(), jit_compile=False)
    return model


@pytest.fixture
def unwarned(model):
    model._has_warned = False
    return model


def warnings_of_range(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    texts = [str(warning.message) for warning in caught]
    return [text for text in texts if "0..255" in text]


@pytest.mark.parametrize("form", FORMS)
def test_fit_warns_once_of_images_that_are_normalized_already(unwarned, form):
    given = FORMS[form](IMAGE / 255)
    texts = warnings_of_range(lambda: unwarned.fit(**given, epochs=2, verbose=0))
    (text,) = texts
    assert "the network normalizes it" in text and "255 * image" in text


@pytest.mark.parametrize("form", FORMS)
def test_fit_has_nothing_to_say_of_right_images(unwarned, form):
    given = FORMS[form](IMAGE)
    assert not warnings_of_range(lambda: unwarned.fit(**given, verbose=0))


@pytest.mark.parametrize(
    "image",
    [IMAGE / 127.5 - 1, IMAGE - 128, IMAGE * 257, np.where(IMAGE > 9, IMAGE, np.nan)],
    ids=["-1..1", "without its mean", "16 bits", "NaN"],
)
def test_other_ranges(unwarned, image):
    given = FORMS["dataset"](image.astype("float32"))
    assert len(warnings_of_range(lambda: unwarned.evaluate(**given, verbose=0))) == 1
    unwarned._has_warned = False
    assert len(warnings_of_range(lambda: unwarned.predict(image, verbose=0))) == 1


def test_the_first_batch_that_is_wrong_need_not_be_the_first(unwarned):
    image = np.concatenate([IMAGE[:2], IMAGE[2:] / 255])
    given = FORMS["dataset"](image)
    assert len(warnings_of_range(lambda: unwarned.fit(**given, verbose=0))) == 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros_like(IMAGE),  # a black batch
        IMAGE.astype("uint8"),
        IMAGE * 1.2 - 20,  # the overshoot of a bicubic resize
    ],
    ids=["black", "uint8", "overshoot"],
)
def test_unusual_images_that_may_be_right(unwarned, image):
    given = FORMS["dataset"](image)
    assert not warnings_of_range(lambda: unwarned.evaluate(**given, verbose=0))


@pytest.mark.slow
def test_the_look_stays_outside_of_what_xla_compiles(unwarned):
    given = FORMS["dataset"](IMAGE / 255)
    unwarned.compile("sgd", SegmentationLoss(), jit_compile=True)
    assert len(warnings_of_range(lambda: unwarned.fit(**given, verbose=0))) == 1
    unwarned.compile("sgd", SegmentationLoss(), jit_compile=False)


def test_rule_by_hand():
    def sentence(image):
        pixels = pixel_range(np.asarray(image, "float32").reshape(-1, 1, 1))
        return why_impossible(pixels), why_unlikely(pixels)

    assert sentence([0, 128, 255]) == sentence([0]) == sentence([-3, 290]) == ("", "")
    assert "0 to 0.5" in sentence([0, 0.5])[0]
    assert "-2 to 2.5" in sentence([-2, 2.5])[0]
    assert "-100 to 200" in sentence([-100, 200])[0]
    assert "0 to 1000" in sentence([0, 1000])[0]
    assert "something else" in sentence([0, 1])[1]  # a mask, likely
    assert sentence([0, 1])[0] == ""


@pytest.mark.parametrize("auxiliary", [False, True])
def test_fit_traces_the_network_once(auxiliary, monkeypatch):
    """Twice where its first step makes variables: half a minute for a deep network."""
    model = DeepLabV3Torchvision(3, "tiny", auxiliary_outputs=auxiliary)
    traces = []
    classifier = model.get_layer("logits")
    call = classifier.call
    monkeypatch.setattr(classifier, "call", lambda x: traces.append(x) or call(x))
    loss = SegmentationLoss()
    losses = {name: loss for name in model.output} if auxiliary else loss
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), losses)
    model.fit(compiling.label_outputs(model, dataset(IMAGE)), verbose=0)
    assert len(traces) == 1


def test_a_model_is_freed_after_what_looked_at_its_images():
    """TensorFlow keeps what looks, and kept every model that was ever fitted."""

    def fitted():
        model = DeepLabV3(3, backbone="tiny", atrous_rates=())
        model.compile("sgd", SegmentationLoss(), jit_compile=False)
        model.fit(dataset(IMAGE), verbose=0)
        model.evaluate(dataset(IMAGE), verbose=0)
        return weakref.ref(model)

    reference = fitted()
    gc.collect()
    assert reference() is None
