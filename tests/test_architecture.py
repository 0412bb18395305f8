"""The floors of the design: who may import whom, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("deeplab_tf/**/*.py"), *ROOT.glob("datasets/**/*.py")])

# Module -> the modules of ours that it may import at most.
FLOORS = {
    "deeplab_tf.version": set(),
    "deeplab_tf.config": {"files"},
    "deeplab_tf.recipes": {"config"},
    "deeplab_tf.crf": set(),
    "deeplab_tf.layers": set(),
    "deeplab_tf.losses": set(),
    "deeplab_tf.metrics": set(),
    "deeplab_tf.evaluation": {"files", "metrics"},
    "deeplab_tf.evaluation_report": {"evaluation", "files", "labels", "visualize"},
    "deeplab_tf.visualize": {"files", "labels"},
    "deeplab_tf.torch_files": set(),
    "deeplab_tf.weight_files": {"files"},
    "deeplab_tf.files": set(),
    "deeplab_tf.labels": set(),
    "deeplab_tf.tflite_files": set(),
    "deeplab_tf.blocks": {"layers"},
    "deeplab_tf.backbones": {"layers", "blocks", "backbones", "weight_files"},
    "deeplab_tf.heads": {"layers", "blocks", "backbones"},
    "deeplab_tf.models": {"blocks", "backbones", "heads", "weight_files"},
    "deeplab_tf.optimizers": {"layers"},
    "deeplab_tf.workdir": {"config", "models", "weight_files"},
    "deeplab_tf.images": set(),
    "deeplab_tf.videos": set(),
    "deeplab_tf.submissions": {"files", "labels", "visualize"},
    "deeplab_tf.saved_models": {"labels"},
    "deeplab_tf.windows": set(),
    "deeplab_tf.runtimes": {"labels"},
    "deeplab_tf.inference": {
        "crf",
        "frozen",
        "labels",
        "models",
        "runtimes",
        "saved_models",
        "windows",
        "workdir",
    },
    "deeplab_tf.page": {"images", "models", "visualize"},
    "deeplab_tf.input_files": {"videos"},
    "deeplab_tf.predictions": {
        "files",
        "images",
        "inference",
        "input_files",
        "labels",
        "models",
        "submissions",
        "videos",
        "visualize",
    },
    "deeplab_tf.frozen": {"models"},
    "deeplab_tf.warmup": set(),
    "deeplab_tf.serving": {"images", "inference", "models"},
    "deeplab_tf.exporting": {
        "frozen",
        "inference",
        "labels",
        "models",
        "saved_models",
        "serving",
        "warmup",
    },
    "deeplab_tf.converting": {
        "exporting",
        "files",
        "frozen",
        "labels",
        "runtimes",
    },
    "deeplab_tf.weight_sources": {"backbones"},
    "deeplab_tf.weights": {
        "config",
        "labels",
        "models",
        "tflite_files",
        "torch_files",
        "weight_files",
        "weight_sources",
        "workdir",
    },
    "deeplab_tf.checkpoints": set(),
    "deeplab_tf.workers": set(),
    "deeplab_tf.strategies": {"layers", "workers"},
    "deeplab_tf.callbacks": {
        "checkpoints",
        "config",
        "optimizers",
        "report",
        "weight_files",
        "workdir",
    },
    "deeplab_tf.report": {"config", "files"},
    "deeplab_tf.runs": {"config", "heads", "recipes"},
    "deeplab_tf.meter": {"callbacks", "config", "metrics", "optimizers", "report"},
    "deeplab_tf.watching": {
        "callbacks",
        "config",
        "files",
        "meter",
        "optimizers",
        "report",
        "visualize",
    },
    "deeplab_tf.training": {
        "config",
        "heads",
        "layers",
        "losses",
        "metrics",
        "models",
        "optimizers",
        "weight_files",
        "workdir",
    },
    "datasets.info": set(),
    "datasets.augment": set(),
    "datasets.tfrecord": set(),
    "datasets.pairs": {"info", "tfrecord"},
    "datasets.catalog": {"info"},
    "datasets.worker_pool": {"pairs"},
    "datasets.output_folder": {"info", "pairs"},
    "datasets.shards": {"info", "output_folder", "pairs", "tfrecord"},
    "datasets.beam": {"pairs", "shards"},
    "datasets.build": {
        "beam",
        "info",
        "output_folder",
        "pairs",
        "shards",
        "worker_pool",
    },
    "datasets.image_files": {"pairs"},
    "datasets.folder_splits": {"image_files", "pairs"},
    "datasets.inspection": {"bad_records", "info", "tfrecord"},
    "datasets.inspect": {
        "contact_sheet",
        "info",
        "inspection",
        "output_folder",
        "tfrecord",
    },
    "datasets.contact_sheet": {"info"},
    "datasets.archives": set(),
    "datasets.extraction": {"output_folder", "pairs"},
    "datasets.published": {"build", "download"},
    "datasets.download": {"archives", "extraction", "output_folder", "pairs"},
    "datasets.coco": {"image_files", "info", "pairs"},
    "datasets.matlab": set(),
    "datasets.voc_devkit": {"pairs"},
    "datasets.sbd": {"matlab", "pairs", "voc_devkit"},
    "datasets.tfds_features": {"build_cityscapes", "catalog", "info", "pairs"},
    "datasets.tfds_staging": {
        "image_files",
        "output_folder",
        "pairs",
        "tfds_features",
        "tfrecord",
    },
    "datasets.build_tfds": {
        "build",
        "folder_splits",
        "image_files",
        "info",
        "output_folder",
        "pairs",
        "tfds_features",
        "tfds_staging",
        "worker_pool",
    },
    "datasets.policies": set(),
    "datasets.bad_records": {"info", "tfrecord"},
    "datasets.selection": {"bad_records", "bootstrap", "info", "tfrecord"},
    "datasets.bootstrap": {"tfrecord"},
    "datasets.pipeline": {"augment", "policies", "tfrecord"},
}
# Imported where they are used, inside a function.
HEAVY = {
    "ai_edge_litert",
    "apache_beam",
    "cv2",
    "flask",
    "grpc",
    "keras_cv",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pycocotools",
    "selenium",
    "sklearn",
    "tensorflow_addons",
    "tensorflow_datasets",
    "tensorflow_serving",
    "tf2onnx",
    "werkzeug",
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_modules_import_only_what_is_below_them(path):
    name = module_name(path)
    package = name.partition(".")[0]
    other = {"deeplab_tf": "datasets", "datasets": "deeplab_tf"}[package]
    ours = set()
    for imported in imports(path):
        assert imported.partition(".")[0] != other, f"{name} imports {imported}"
        if imported.startswith(f"{package}."):
            ours.add(imported.split(".")[1])
    floor = FLOORS.get(name, FLOORS.get(name.rpartition(".")[0]))
    if floor is not None:
        assert ours <= floor, f"{name} imports {sorted(ours - floor)}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_heavy_packages_are_imported_where_they_are_used(path):
    top_level = {name.partition(".")[0] for name in imports(path, top_level_only=True)}
    assert not top_level & HEAVY


def test_every_floor_is_a_module():
    assert set(FLOORS) <= {module_name(path) for path in SOURCES}


def test_installed_package_is_the_networks_alone():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'include = ["deeplab_tf*"]' in text
