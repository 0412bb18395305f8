"""Trains a DeepLab network on TFRecords.

    python train.py --strategy=mirrored                      (drawn scenes, at once)
    python train.py --recipe=camvid_mobilenet_v2
    python train.py --recipe=finetune_resnet50 --data_dir=runs/data/mine

The same command run again resumes. --recipe=help lists the recipes, --help the
flags; how it is done is told in deeplab_tf/commands/train.py.
"""

from deeplab_tf.commands import train

if __name__ == "__main__":
    train.run()
