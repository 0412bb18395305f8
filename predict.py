"""Segments images and videos with a trained or an exported model.

    python predict.py --workdir=runs/demo --input=photos --output=predictions
    python predict.py --saved_model=exported --input='photos/*.jpg' --output=out
    python predict.py --workdir=runs/demo --serve        a page in the browser

--help has all flags; how it is done is told in deeplab_tf/commands/predict.py.
"""

from deeplab_tf.commands import predict

if __name__ == "__main__":
    predict.run()
