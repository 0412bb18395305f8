import io

import numpy as np
from PIL import Image

from datasets import build_shapes, unpack
from deeplab_tf.data.reading.pipeline import make_eval_dataset


def test_unpacked_files_are_what_the_records_hold(tmp_path):
    build_shapes.build(tmp_path / "data", num_train=1, num_val=3, num_processes=1)
    count = unpack.unpack(tmp_path / "data", "val", tmp_path / "out", limit=2)
    assert count == 2
    dataset = make_eval_dataset(tmp_path / "data", "val", with_filename=True).take(2)
    for image, label, filename in dataset:
        name = filename[0].numpy().decode()
        data = (tmp_path / "out/images" / f"{name}.jpg").read_bytes()
        assert Image.open(io.BytesIO(data)).size == image.shape[2:0:-1]
        ids = np.asarray(Image.open(tmp_path / "out/labels" / f"{name}.png"))
        np.testing.assert_array_equal(ids, label[0])
    assert len(list((tmp_path / "out/images").iterdir())) == 2
