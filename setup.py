"""The packages of a wheel; pyproject.toml has all the rest.

The folder `datasets` is installed as `deeplab_tf.datasets`: a top-level package of its
name would shadow Hugging Face's.
"""

from setuptools import find_packages, setup

datasets = [f"deeplab_tf.{name}" for name in find_packages(include=["datasets*"])]

setup(
    packages=[*find_packages(include=["deeplab_tf*"]), *datasets],
    package_dir={"deeplab_tf.datasets": "datasets"},
)
