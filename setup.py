"""The packages of a wheel, and README as a package index shows it.

The folder `datasets` is installed as `deeplab_tf.datasets`: a top-level package of its
name would shadow Hugging Face's. pyproject.toml has all the rest.
"""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Where the files of the repository can be looked at, such as https://HOST/NAME/raw/main/.
ADDRESS = os.environ.get("DEEPLAB_TF_ADDRESS", "")


def readme() -> str:
    """Returns README for a package index, which has no files beside it.

    Links into the checkout become links below DEEPLAB_TF_ADDRESS. Where that is not
    given only their words are left, and no pictures.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->\n", "", text)
    link = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:)([^)]+)\)")
    if ADDRESS:
        return link.sub(rf"\1[\2]({ADDRESS}\3)", text)
    return link.sub(lambda found: "" if found[1] else found[2], text)


datasets = [f"deeplab_tf.{name}" for name in find_packages(include=["datasets*"])]

setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    packages=[*find_packages(include=["deeplab_tf*"]), *datasets],
    package_dir={"deeplab_tf.datasets": "datasets"},
)
