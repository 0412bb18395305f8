import io

import numpy as np
from PIL import Image

from datasets import build_shapes, unpack
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from tests.support.commands import call


def test_unpacked_files_are_what_the_records_hold(tmp_path):
    build_shapes.build(tmp_path / "data", num_train=1, num_val=3, num_processes=1)
    arguments = (f"--data_dir={tmp_path / 'data'}", f"--output_dir={tmp_path / 'out'}")
    result = call(unpack, *arguments, "--split=val", "--limit=2")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"Wrote 2 pairs to {tmp_path / 'out'}\n"
    dataset = make_eval_dataset(
        select_records(tmp_path / "data", "val"), with_filename=True
    ).take(2)
    for image, label, filename in dataset:
        name = filename[0].numpy().decode()
        data = (tmp_path / "out/images" / f"{name}.jpg").read_bytes()
        assert Image.open(io.BytesIO(data)).size == image.shape[2:0:-1]
        ids = np.asarray(Image.open(tmp_path / "out/labels" / f"{name}.png"))
        np.testing.assert_array_equal(ids, label[0])
    assert len(list((tmp_path / "out/images").iterdir())) == 2


def test_absent_records_are_a_sentence(tmp_path):
    arguments = (f"--data_dir={tmp_path / 'absent'}", f"--output_dir={tmp_path / 'x'}")
    result = call(unpack, *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: No info.json in ")
    assert not list(tmp_path.iterdir())
