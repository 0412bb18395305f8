"""Evaluates a model: mean IoU by one confusion matrix, each image at its own size.

    python evaluate.py --workdir=runs/demo
    python evaluate.py --workdir=runs/demo --flip --scales=0.75,1,1.25
    python evaluate.py --saved_model=exported --data_dir=runs/data/voc --output=scores

--help has all flags; how it is done is told in deeplab_tf/commands/evaluate.py.
"""

from deeplab_tf.commands import evaluate

if __name__ == "__main__":
    evaluate.run()
