"""Published networks by name: `PUBLISHED`, the one table of their addresses.

Every figure is one that its project states; `checked` says what of a row could not be
compared with the file itself. A checksum is the project's own (torchvision writes the
beginning of the SHA-256 into the file's name), or that of two projects which check it.
"""

from __future__ import annotations

import dataclasses

from deeplab_tf.class_tables import ADE20K, CITYSCAPES, VOC2012

VOC_CLASSES = VOC2012.names
CITYSCAPES_CLASSES = CITYSCAPES.names
# research/deeplab counts "other" as class 0 and never trains it.
ADE20K_CLASSES = ("other", *ADE20K.names)
NOT_FETCHED = "Address and figures of the project's own files; never fetched here."


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of `PUBLISHED`.

    Attributes:
      source: a row of `importing.SOURCES`, which reads the file.
      address: where the file is.
      page: what describes it, its terms too.
      trained_on: data of its training, in order.
      licence: of the weights, as its project states it.
      num_classes: of the network; 0 for a backbone without a head.
      class_names: of the classes; none where their number says it.
      miou: published mean IoU in percent, and on what; "" where none is stated.
      stated_in: where that is stated.
      about: size as its project states it, such as "439 MB"; "" where it does not.
      size: exact bytes, or None.
      checksum: SHA-256 in hexadecimal or its beginning, or None.
      checked: what of the row was compared with what.
    """

    source: str
    address: str
    page: str
    trained_on: str
    licence: str
    num_classes: int = 21
    class_names: tuple[str, ...] = ()
    miou: str = ""
    stated_in: str = ""
    about: str = ""
    size: int | None = None
    checksum: str | None = None
    checked: str = NOT_FETCHED

    @property
    def file_name(self) -> str:
        """The file's own name, as its address ends."""
        return self.address.rpartition("/")[2]


# --- torchvision ---------------------------------------------------------------------


def _torchvision(
    file_name: str, miou: str, about: str, module: str = "deeplabv3"
) -> Published:
    return Published(
        source="torchvision",
        address=f"https://download.pytorch.org/models/{file_name}",
        page="https://github.com/pytorch/vision/tree/main/references/segmentation",
        trained_on="ImageNet, COCO train2017 with VOC's classes",
        licence="BSD-3-Clause (torchvision)",
        miou=f"{miou} COCO val2017 with VOC's classes",
        stated_in=f"torchvision/models/segmentation/{module}.py",
        about=about,
        checksum=file_name.rpartition("-")[2].partition(".")[0],
        checked=f"{NOT_FETCHED} The name carries 8 digits of the SHA-256.",
    )


# --- The authors' checkpoints --------------------------------------------------------

_VOC = "ImageNet, COCO, VOC 2012"


def _authors(archive: str, trained_on: str, miou: str, about: str, **fields):
    return Published(
        **{
            "source": "research_deeplab",
            "address": f"http://download.tensorflow.org/models/{archive}.tar.gz",
            "page": "https://github.com/tensorflow/models/blob/master/research/deeplab/"
            "g3doc/model_zoo.md",
            "trained_on": trained_on,
            "licence": "Apache-2.0 (tensorflow/models)",
            "miou": miou,
            "stated_in": "research/deeplab/g3doc/model_zoo.md" if miou else "",
            "about": about,
            **fields,
        }
    )


def _imagenet(archive: str, about: str, trained_on: str = "ImageNet") -> Published:
    """A backbone, on which train.py --init puts a head."""
    return _authors(archive, trained_on, "", about, num_classes=0)


_CITYSCAPES = {"num_classes": 19, "class_names": CITYSCAPES_CLASSES}
_ADE20K = {"num_classes": 151, "class_names": ADE20K_CLASSES}

# --- keras-deeplab-v3-plus -----------------------------------------------------------


def _bonlime(release: str, file_name: str, trained_on: str, **fields) -> Published:
    return Published(
        source="bonlime",
        address="https://github.com/bonlime/keras-deeplab-v3-plus/releases/download/"
        f"{release}/{file_name}.h5",
        page="https://github.com/bonlime/keras-deeplab-v3-plus",
        trained_on=trained_on,
        licence="MIT (keras-deeplab-v3-plus), from Apache-2.0 weights",
        checked=f"{NOT_FETCHED} Its README calls them imported from the authors' "
        "checkpoints.",
        **fields,
    )


# --- deeplab-pytorch -----------------------------------------------------------------


def _kazuto1011(file_name: str, trained_on: str, miou: str, **fields) -> Published:
    return Published(
        source="kazuto1011",
        address="https://github.com/kazuto1011/deeplab-pytorch/releases/download/"
        f"v1.0/{file_name}.pth",
        page="https://github.com/kazuto1011/deeplab-pytorch",
        trained_on=trained_on,
        licence="MIT (deeplab-pytorch)",
        miou=miou,
        stated_in="README.md of deeplab-pytorch, without CRF",
        **fields,
    )


# --- .tflite -------------------------------------------------------------------------

_CORAL = "https://github.com/google-coral/test_data"


def _coral(commit: str, file_name: str, **fields) -> Published:
    return Published(
        source="tflite",
        address=f"{_CORAL}/raw/{commit}/{file_name}.tflite",
        page=_CORAL,
        trained_on=f"{_VOC} (8 bits)",
        licence="Apache-2.0 (google-coral/test_data)",
        **fields,
    )


# --- The table -----------------------------------------------------------------------

PUBLISHED: dict[str, Published] = {
    "torchvision_resnet50_coco_voc": _torchvision(
        "deeplabv3_resnet50_coco-cd0a2569.pth", "66.4", "160.5 MiB"
    ),
    "torchvision_resnet101_coco_voc": _torchvision(
        "deeplabv3_resnet101_coco-586e9e4e.pth", "67.4", "233.2 MiB"
    ),
    "torchvision_mobilenet_v3_large_coco_voc": _torchvision(
        "deeplabv3_mobilenet_v3_large-fc3c493d.pth", "60.3", "42.3 MiB"
    ),
    "torchvision_lr_aspp_mobilenet_v3_large_coco_voc": _torchvision(
        "lraspp_mobilenet_v3_large-d234d4ea.pth", "57.9", "12.5 MiB", "lraspp"
    ),
    "mobilenet_v2_dm05_voc_trainaug": _authors(
        "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01",
        f"{_VOC} trainaug",
        "70.19 VOC val, output stride 16",
        "7.6 MB",
    ),
    "mobilenet_v2_dm05_voc_trainval": _authors(
        "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01",
        f"{_VOC} trainaug + trainval",
        "71.83 VOC test, output stride 8",
        "7.6 MB",
    ),
    "mobilenet_v2_voc_trainaug": _authors(
        "deeplabv3_mnv2_pascal_train_aug_2018_01_29",
        f"{_VOC} trainaug",
        "75.32 VOC val, output stride 16",
        "23 MB",
    ),
    "mobilenet_v2_voc_trainval": _authors(
        "deeplabv3_mnv2_pascal_trainval_2018_01_29",
        f"{_VOC} trainaug + trainval",
        "80.25 VOC test, output stride 8, scales, flip",
        "23 MB",
    ),
    "xception65_voc_trainaug": _authors(
        "deeplabv3_pascal_train_aug_2018_01_04",
        f"{_VOC} trainaug",
        "82.20 VOC val, output stride 16",
        "439 MB",
    ),
    "xception65_voc_trainval": _authors(
        "deeplabv3_pascal_trainval_2018_01_04",
        f"{_VOC} trainaug + trainval",
        "87.80 VOC test, output stride 8, scales, flip",
        "439 MB",
    ),
    "mobilenet_v2_cityscapes": _authors(
        "deeplabv3_mnv2_cityscapes_train_2018_02_05",
        "ImageNet, COCO, Cityscapes train_fine",
        "70.71 Cityscapes val, output stride 16",
        "23 MB",
        **_CITYSCAPES,
    ),
    "xception65_cityscapes": _authors(
        "deeplabv3_cityscapes_train_2018_02_06",
        "ImageNet, Cityscapes train_fine",
        "78.79 Cityscapes val, output stride 16",
        "439 MB",
        **_CITYSCAPES,
    ),
    "mobilenet_v2_ade20k": _authors(
        "deeplabv3_mnv2_ade20k_train_2018_12_03",
        "ImageNet, ADE20K train",
        "32.04 ADE20K val, output stride 16, longest side 257",
        "24.8 MB",
        **_ADE20K,
    ),
    "xception65_ade20k": _authors(
        "deeplabv3_xception_ade20k_train_2018_05_29",
        "ImageNet, ADE20K train",
        "45.65 ADE20K val, output stride 8, scales, flip",
        "439 MB",
        **_ADE20K,
    ),
    "xception41_imagenet": _imagenet("xception_41_2018_05_09", "288 MB"),
    "xception65_imagenet": _imagenet("deeplabv3_xception_2018_01_04", "447 MB"),
    "xception65_coco": _imagenet(
        "xception_65_coco_pretrained_2018_10_02", "292 MB", "ImageNet, COCO"
    ),
    "xception71_imagenet": _imagenet("xception_71_2018_05_09", "474 MB"),
    "resnet50_beta_imagenet": _imagenet("resnet_v1_50_2018_05_04", "274 MB"),
    "resnet101_beta_imagenet": _imagenet("resnet_v1_101_2018_05_04", "477 MB"),
    "bonlime_xception65_voc": _bonlime(
        "1.1", "deeplabv3_xception_tf_dim_ordering_tf_kernels", "VOC 2012"
    ),
    "bonlime_mobilenet_v2_voc": _bonlime(
        "1.1", "deeplabv3_mobilenetv2_tf_dim_ordering_tf_kernels", "VOC 2012"
    ),
    "bonlime_xception65_cityscapes": _bonlime(
        "1.2",
        "deeplabv3_xception_tf_dim_ordering_tf_kernels_cityscapes",
        "Cityscapes",
        **_CITYSCAPES,
    ),
    "bonlime_mobilenet_v2_cityscapes": _bonlime(
        "1.2",
        "deeplabv3_mobilenetv2_tf_dim_ordering_tf_kernels_cityscapes",
        "Cityscapes",
        **_CITYSCAPES,
    ),
    "kazuto1011_resnet101_voc": _kazuto1011(
        "deeplabv2_resnet101_msc-vocaug-20000",
        "COCO, VOC 2012 trainaug",
        "76.65 VOC val",
    ),
    "kazuto1011_resnet101_cocostuff164k": _kazuto1011(
        "deeplabv2_resnet101_msc-cocostuff164k-100000",
        "COCO, COCO-Stuff 164k train",
        "39.1 COCO-Stuff 164k val",
        num_classes=182,
    ),
    "kazuto1011_resnet101_cocostuff10k": _kazuto1011(
        "deeplabv2_resnet101_msc-cocostuff10k-20000",
        "COCO, COCO-Stuff 10k train",
        "34.8 COCO-Stuff 10k val",
        num_classes=182,
    ),
    "tflite_mobilenet_v2_voc": _coral(
        "104342d2d3480b3e66203073dac24f4e2dbb4c41",
        "deeplabv3_mnv2_pascal_quant",
        size=2193224,
        checksum="350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398",
        checked="Imported and looked at; size and SHA-256 are those of the file.",
    ),
    "tflite_mobilenet_v2_dm05_voc": _coral(
        "c21de4450f88a20ac5968628d375787745932a5a",
        "deeplabv3_mnv2_dm05_pascal_quant",
    ),
    "tflite_mobilenet_v2_dm05_voc_float": Published(
        source="tflite",
        address="https://storage.googleapis.com/download.tensorflow.org/models/tflite/"
        "gpu/deeplabv3_257_mv_gpu.tflite",
        page="https://www.tensorflow.org/lite/models/segmentation/overview",
        trained_on=_VOC,
        licence="Apache-2.0 (TensorFlow)",
        size=2779264,
        checksum="68a539782c2c6a72f8aac3724600124a85ed977162b44e84cbae5db717c933c6",
        checked="Imported and looked at; size and SHA-256 are those of the file, and "
        "two projects check this SHA-256 at that address.",
    ),
    "huggingface_mobilenet_v2_voc": Published(
        source="huggingface",
        address="https://huggingface.co/google/deeplabv3_mobilenet_v2_1.0_513/resolve/"
        "main/pytorch_model.bin",
        page="https://huggingface.co/google/deeplabv3_mobilenet_v2_1.0_513",
        trained_on="VOC 2012, from the authors' checkpoint",
        licence='"other" (its model card), from Apache-2.0 weights',
        about="10.4 MB",
    ),
    "keras_hub_resnet50_voc": Published(
        source="keras_hub",
        address="https://huggingface.co/keras/deeplab_v3_plus_resnet50_pascalvoc/"
        "resolve/main/task.weights.h5",
        page="https://huggingface.co/keras/deeplab_v3_plus_resnet50_pascalvoc",
        trained_on="ImageNet, VOC 2012 with SBD",
        licence="Apache-2.0 (its model card)",
        miou="63.91 VOC val",
        stated_in="model card of keras/deeplab_v3_plus_resnet50_pascalvoc",
        about="314 MB",
    ),
}


def describe_published() -> str:
    """Returns the table for a terminal, a few lines a network."""
    width = max(map(len, PUBLISHED))
    rows = []
    for name, row in PUBLISHED.items():
        classes = f"{row.num_classes} classes" if row.num_classes else "backbone"
        rows.append(f"{name:{width}}  {classes:>11}  {row.about or '-':>9}  {row.miou}")
        rows.append(f"{'':{width}}  {row.trained_on}; {row.licence}")
    return "\n".join(rows)
