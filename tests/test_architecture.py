"""The plan of the house: which room may import from which, read from the source."""

import sys
from pathlib import Path

import pytest

from tests.support.imports import ROOT, imported_names, module_name

SOURCES = sorted([*ROOT.glob("deeplab_tf/**/*.py"), *ROOT.glob("datasets/**/*.py")])
SCRIPTS = sorted(ROOT.glob("*.py"))

# Room -> (its row, the rooms of the same row that it may import from). A room may
# import from all rows above its own, that is of smaller numbers.
ROOMS = {
    "class_tables": (1, ("colors",)),
    "colors": (1, ()),
    "class_weights": (1, ()),
    "command_names": (1, ()),
    "config_checks": (1, ()),
    "downloading": (1, ("files", "strangers_words")),
    "files": (1, ()),
    "image_kinds": (1, ()),
    "image_work": (1, ()),
    "labels": (1, ("class_tables", "colors")),
    "moved": (1, ()),
    "quiet": (1, ()),
    "registration": (1, ()),
    "strangers_words": (1, ()),
    "version": (1, ()),
    "config": (2, ()),
    "devices": (2, ()),
    "networks": (2, ()),
    "data.records": (2, ()),
    "pictures": (2, ()),
    "data.reading": (3, ()),
    "data.building": (3, ()),
    "evaluation": (3, ()),
    "recipes": (3, ()),
    "weights": (3, ("workdir",)),
    "workdir": (3, ()),
    "data.folders": (4, ()),
    "data.annotations": (4, ("data.folders",)),
    "data.downloads": (4, ()),
    "data.plain_folders": (5, ()),
    "data.inspection": (4, ()),
    "inference": (4, ()),
    "recipe_help": (4, ()),
    "training": (4, ()),
    "datasets": (5, ()),
    "exports": (5, ()),
    "prediction": (5, ()),
    "report": (5, ()),
    "commands": (6, ()),
    "average": (7, ()),
    "rename": (7, ()),
    "__main__": (7, ()),
}
# The data and what is done with them do not know each other below the commands.
DATA = {room for room in ROOMS if room.startswith("data")}
BOTH = {room for room, (row, _) in ROOMS.items() if row == 1} | {"commands"}
# Imported where they are used, inside a function.
HEAVY = {
    "ai_edge_litert",
    "apache_beam",
    "cv2",
    "flask",
    "grpc",
    "huggingface_hub",
    "keras_cv",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "pillow_heif",
    "pyarrow",
    "pycocotools",
    "selenium",
    "sklearn",
    "tensorflow_addons",
    "tensorflow_datasets",
    "tensorflow_serving",
    "tf2onnx",
    "werkzeug",
}


def room_of(name: str) -> str | None:
    """The room of a module, or of a name in it; None for what is not ours."""
    package, *parts = name.split(".")
    if package == "datasets":
        return "datasets"
    if package != "deeplab_tf" or not parts:
        return None
    if parts[0] == "data":
        return ".".join(parts[:2]) if len(parts) > 1 else None
    # `from deeplab_tf import Segmenter` is for those outside.
    assert parts[0] in ROOMS, f"{name} is in no room of the table"
    return parts[0]


def is_facade(path: Path) -> bool:
    return path.name == "__init__.py" and module_name(path) in (
        "deeplab_tf",
        "deeplab_tf.data",
    )


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_rooms_import_only_from_rows_above_them(path):
    if is_facade(path):
        return
    name = module_name(path)
    room = room_of(name)
    row, beside = ROOMS[room]
    for imported in imported_names(path):
        other = room_of(imported)
        if other in (None, room, *beside):
            continue
        assert ROOMS[other][0] < row, f"{name} imports {imported}"
        walled = {room in DATA or room == "datasets", other in DATA}
        assert len(walled) == 1 or {room, other} & BOTH, f"{name} imports {imported}"


def test_no_room_of_the_table_is_empty():
    assert {
        room_of(module_name(path)) for path in SOURCES if not is_facade(path)
    } == set(ROOMS)


def test_modules_import_each_other_in_no_circle():
    modules = {module_name(path): path for path in SOURCES}
    above = {
        name: {
            target
            for imported in imported_names(path)
            for target in (imported, imported.rpartition(".")[0])
            if target in modules and target != name
        }
        for name, path in modules.items()
        if path.name != "__init__.py"
    }
    done = set()

    def visit(name, way):
        assert name not in way, f"A circle: {' -> '.join([*way, name])}"
        if name not in done:
            for other in sorted(above.get(name, ())):
                visit(other, [*way, name])
            done.add(name)

    for name in sorted(above):
        visit(name, [])


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_heavy_packages_are_imported_where_they_are_used(path):
    names = imported_names(path, top_level_only=True)
    assert not {name.partition(".")[0] for name in names} & HEAVY


@pytest.mark.skipif(sys.version_info < (3, 10), reason="needs sys.stdlib_module_names")
def test_scripts_shadow_no_module_of_the_standard_library():
    # A folder without __init__.py (datasets/inspect) does not.
    started = [*SCRIPTS, *ROOT.glob("datasets/*.py"), *ROOT.glob("serving/*.py")]
    assert not {path.stem for path in started} & sys.stdlib_module_names
