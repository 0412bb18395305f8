"""The runs that the papers and this repository train, as rows of one table."""

from __future__ import annotations

import dataclasses

from deeplab_tf.command_names import did_you_mean
from deeplab_tf.config import TrainConfig
from deeplab_tf.devices.expected_time import readable_time

NOT_RUN = "not run"
_IMAGENET = "downloads Keras' ImageNet weights, or --init=FILE"
_VOC = "python -m datasets.build_voc2012 with trainaug"
_GPU = "a GPU, or several"
_TWO_CORES = "two cores of a Xeon"
_COCO = "python -m datasets.build_coco --task=voc --input_dir=coco"
_CITYSCAPES = "python -m datasets.build_cityscapes --input_dir=cityscapes"
_MOBILENET_MEMORY = f"2.8 GB, {_TWO_CORES}"


def _xception(layers: int) -> str:
    """How the authors' ImageNet checkpoint of an Xception becomes a workdir."""
    return (
        f"the authors' ImageNet checkpoint as runs/xception{layers}_imagenet: python "
        "-m deeplab_tf.weights research_deeplab CHECKPOINT --partial "
        "--set=model=deeplab_v3plus --set=num_classes=21 "
        f"--output=runs/xception{layers}_imagenet"
    )


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a run takes of a machine; numbers are of `benchmarks.recipe_costs`.

    They are estimates, in float32, from what an H200 did of DeepLabV3-ResNet-50
    (docs/benchmarks.md); texts are of runs.

    Attributes:
      gpu_gigabytes: memory of a GPU.
      images_per_second: of training on an H200.
      disk_gigabytes: of the workdir; records are as large as their images.
      memory, time: what was measured, with the machine.
    """

    gpu_gigabytes: float
    images_per_second: int
    disk_gigabytes: float
    memory: str = ""
    time: str = ""

    def describe(self, config: TrainConfig) -> dict[str, str]:
        """{"memory": ..., "time": ..., "disk": ...} of a run of such a config."""
        images = config.steps * config.batch_size or 1000 * config.epochs
        of = "" if config.steps else f", {config.epochs} epochs of 1,000 images"
        time = readable_time(images / self.images_per_second)
        return {
            "memory": self.memory
            or f"{self.gpu_gigabytes:g} GB of a GPU (bfloat16: half of it), estimated",
            "time": self.time or f"{time} on an H200{of}, estimated",
            "disk": f"{self.disk_gigabytes:g} GB of the run, and as much as the images",
        }


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A configuration and what is known about it.

    Attributes:
      config: what is trained; train.py completes it from the data set's info.json.
      what: one sentence.
      paper: the paper's figures, mean IoU in per cent, and where they stand.
      needs: data, weights and machine.
      costs: what it takes of a machine.
      measured: what was reached here, or `NOT_RUN`.
    """

    config: TrainConfig
    what: str
    paper: str
    needs: str
    costs: Costs
    measured: str = NOT_RUN

    @property
    def needs_gpu(self) -> bool:
        return "GPU" in self.needs


# DeepLabV3, section 4.1.
_VOC2012 = TrainConfig(
    backbone="resnet101",
    init="imagenet",
    train_split="trainaug",
    steps=30_000,
    batch_norm_momentum=0.9997,
    data_dir="runs/data/voc2012",
)
# Classes whose images DeepLabV3 duplicates (section 4.1); it states no factor.
_VOC_HARD_CLASSES = ("bicycle", "chair", "diningtable", "pottedplant", "sofa")
# DeepLabV2 on ResNet-101, sections 4.1.1 and 4.1.2.
_V2 = dataclasses.replace(
    _VOC2012,
    model="deeplab_v2",
    output_stride=8,
    crop_size=(321, 321),
    policy="v2",
    batch_size=10,
    steps=20_000,
    learning_rate=2.5e-4,  # the released solver's; the paper's 1e-3 is VGG's
    head_multiplier=10.0,
    head_bias_multiplier=20.0,
    auxiliary_weight=1.0,
    scale_losses="own",
    label_stride=8,
    weight_decay=5e-4,
    frozen_batch_norm=True,
    batch_norm_momentum=None,
)
# DeepLabV3+ on the aligned Xception, section 4.3.
_XCEPTION65 = dataclasses.replace(
    _VOC2012,
    model="deeplab_v3plus",
    backbone="xception65",
    init="runs/xception65_imagenet",
    weight_decay=4e-5,
)
_XCEPTION71 = dataclasses.replace(
    _XCEPTION65, backbone="xception71", init="runs/xception71_imagenet"
)
_CAMVID = TrainConfig(
    backbone="mobilenet_v2",
    multi_grid=(1, 1, 1),
    init="imagenet",
    crop_size=(321, 321),
    min_scale=0.75,
    batch_size=8,
    learning_rate=0.02,
    weight_decay=4e-5,
    batch_norm_momentum=0.99,
    data_dir="runs/data/camvid",
)
_CAMVID_PLUS = dataclasses.replace(
    _CAMVID,
    model="deeplab_v3plus",
    separable=True,
    head_filters=128,
    crop_size=(288, 384),
    optimizer="adam",
    learning_rate=0.001,
    loss="ce+lovasz",
    class_weights="balanced",
    batch_norm_momentum=0.9,
    batch_norm_batches=30,
    precision="bfloat16",
    validate_every=1000,
)
_CAMVID_PLUS_COSTS = Costs(
    1.6, 8313, 0.1, memory=f"{_MOBILENET_MEMORY}, estimated from camvid_mobilenet_v2"
)

RECIPES = {
    "demo": Recipe(
        TrainConfig(
            backbone="resnet18",
            multi_grid=(1, 1),
            crop_size=(129, 129),
            min_scale=0.9,
            max_scale=1.2,
            batch_size=8,
            epochs=8,
            validate_every=4,
            optimizer="adam",
            learning_rate=0.002,
            batch_norm_momentum=0.9,
            data_dir="runs/data/shapes",
        ),
        what="DeepLabV3 from scratch on the embedded drawn scenes, 7 classes.",
        paper="none",
        needs="nothing; minutes on two CPU cores",
        costs=Costs(
            0.3,
            8001,
            0.5,
            memory=f"1.5 GB, {_TWO_CORES}",
            time=f"5 minutes, {_TWO_CORES}",
        ),
        measured="78.0 at output stride 16, 80.6 at 8 (make demo)",
    ),
    "camvid_mobilenet_v2": Recipe(
        dataclasses.replace(_CAMVID, epochs=45, validate_every=9),
        what="DeepLabV3 on MobileNetV2, CamVid at 480x360, 11 classes.",
        paper="none",
        needs=f"python -m datasets.build_camvid; {_IMAGENET}; 37 minutes, two cores",
        costs=Costs(
            1.3, 5636, 0.1, memory=_MOBILENET_MEMORY, time=f"37 minutes, {_TWO_CORES}"
        ),
        measured="60.1 at output stride 16, 60.5 at 8, 63.0 with scales and flip",
    ),
    "camvid_mobilenet_v2_plus": Recipe(
        dataclasses.replace(_CAMVID_PLUS, steps=3000, class_weights="balanced_sqrt"),
        what="DeepLabV3+ with half of its filters on MobileNetV2, CamVid at 480x360.",
        paper="none",
        needs=f"python -m datasets.build_camvid; {_IMAGENET}; 1.8 hours, two cores",
        costs=dataclasses.replace(
            _CAMVID_PLUS_COSTS, time=f"107 minutes, {_TWO_CORES}, busy"
        ),
        measured="71.0 at output stride 16, 71.5 at 8, 73.5 with scales and flip",
    ),
    "camvid_mobilenet_v2_plus_quick": Recipe(
        dataclasses.replace(_CAMVID_PLUS, steps=1875),
        what="The same for 15,000 crops instead of 24,000, class weights whole.",
        paper="none",
        needs=f"python -m datasets.build_camvid; {_IMAGENET}; an hour, two cores",
        costs=dataclasses.replace(
            _CAMVID_PLUS_COSTS, time=f"74 minutes, {_TWO_CORES}, busy"
        ),
        measured="67.2 at output stride 16, 67.3 at 8, 70.3 with scales and flip",
    ),
    "camvid_stage1": Recipe(
        dataclasses.replace(_CAMVID, steps=600, validate_every=5),
        what="The two-stage protocol on a laptop: output stride 16, BatchNorm trained.",
        paper="none",
        needs=f"python -m datasets.build_camvid; {_IMAGENET}; 11 minutes, two cores",
        costs=Costs(
            1.3, 5636, 0.1, memory=_MOBILENET_MEMORY, time=f"11 minutes, {_TWO_CORES}"
        ),
        measured="54.2 at output strides 16 and 8 (python -m benchmarks.two_stages)",
    ),
    "camvid_stage2": Recipe(
        dataclasses.replace(
            _CAMVID,
            init="runs/camvid_stage1",
            output_stride=8,
            frozen_batch_norm=True,
            learning_rate=0.003,
            steps=300,
            validate_every=5,
        ),
        what="Its second stage: output stride 8, BatchNorm frozen.",
        paper="none",
        needs="the run of camvid_stage1; 18 minutes, two busy cores",
        costs=Costs(
            2.6,
            1615,
            0.1,
            memory=f"4 GB, {_TWO_CORES}, estimated from stage 1",
            time=f"18 minutes, {_TWO_CORES}, busy",
        ),
        measured="54.3 at output stride 16, 54.5 at 8; one stage of as many steps: "
        "56.7 and 56.8 (python -m benchmarks.two_stages)",
    ),
    "finetune_mobilenet_v2": Recipe(
        TrainConfig(
            backbone="mobilenet_v2",
            multi_grid=(1, 1, 1),
            init="imagenet",
            crop_size=(321, 321),
            min_scale=0.75,
            batch_size=8,
            steps=400,
            validate_every=5,
            optimizer="adam",
            learning_rate=0.0005,
            weight_decay=4e-5,
            batch_norm_momentum=0.99,
            data_dir="runs/data/folder",
        ),
        what="DeepLabV3 on MobileNetV2 on your own images, on a laptop.",
        paper="none",
        needs=f"python -m datasets.build_folder; {_IMAGENET}; 60 images or more",
        costs=Costs(
            1.3,
            5636,
            0.1,
            memory=_MOBILENET_MEMORY,
            time=f"8 minutes, {_TWO_CORES}, estimated from camvid_mobilenet_v2; "
            "35 minutes on one core that others used too",
        ),
        measured="60 images of CamVid: 52.5 on 60 others of train, 53.0 on val, 11 "
        "classes (python -m benchmarks.small_set)",
    ),
    "finetune_resnet50": Recipe(
        TrainConfig(
            init="imagenet",
            batch_size=8,
            batch_norm_momentum=0.99,
            data_dir="runs/data/folder",
        ),
        what="DeepLabV3 on your own images: a start, not a paper's protocol.",
        paper="none",
        needs=f"python -m datasets.build_folder; {_IMAGENET}; a GPU",
        costs=Costs(5.3, 246, 1.3),
    ),
    "deeplab_v3_voc2012_stage1": Recipe(
        _VOC2012,
        what="DeepLabV3, first stage: output stride 16, BatchNorm trained.",
        paper="77.21 on val at output stride 16, 78.51 at 8, 79.77 with scales and "
        "flip (1706.05587, tables 5 and 6)",
        needs=f"{_VOC}; {_IMAGENET}; {_GPU}",
        costs=Costs(14.4, 174, 1.9),
    ),
    "deeplab_v3_voc2012_stage2": Recipe(
        dataclasses.replace(
            _VOC2012,
            init="runs/deeplab_v3_voc2012_stage1",
            output_stride=8,
            frozen_batch_norm=True,
            learning_rate=0.001,
            train_split="trainval",
            duplicate=tuple((name, 2) for name in _VOC_HARD_CLASSES),
        ),
        what="DeepLabV3, second stage, for the test server: output stride 8, BatchNorm "
        "frozen, hard classes twice. Its val images are trained on: their score says "
        "nothing.",
        paper="85.7 on test, after COCO (1706.05587, section 4.3)",
        needs=f"the run of stage 1; {_VOC}; {_GPU}",
        costs=Costs(36.2, 50, 1.9),
    ),
    "deeplab_v3_cascade_voc2012": Recipe(
        dataclasses.replace(_VOC2012, model="deeplab_v3_cascade", multi_grid=(1, 2, 1)),
        what="DeepLabV3 going deeper: block5 to block7 instead of ASPP.",
        paper="76.66 on val at output stride 16, 78.05 at 8, 79.35 with scales and "
        "flip (1706.05587, table 4)",
        needs=f"{_VOC}; {_IMAGENET}; {_GPU}",
        costs=Costs(18.8, 125, 2.7),
    ),
    "deeplab_v3_coco": Recipe(
        dataclasses.replace(
            _VOC2012,
            data_dir="runs/data/coco",
            train_split="train",
            steps=100_000,
            min_labelled_pixels=1001,
        ),
        what="DeepLabV3 on COCO's images of VOC's classes with more than 1,000 "
        "annotated pixels. The paper does not state the steps.",
        paper="none of its own",
        needs=f"{_COCO}; {_IMAGENET}; {_GPU}",
        costs=Costs(14.4, 174, 1.9),
    ),
    "deeplab_v3_voc2012_from_coco": Recipe(
        dataclasses.replace(
            _VOC2012, init="runs/deeplab_v3_coco", learning_rate=0.0001
        ),
        what="DeepLabV3 on VOC from the COCO run.",
        paper="82.70 on val at output stride 8 with scales and flip (1706.05587, "
        "table 6)",
        needs=f"the run of deeplab_v3_coco; {_VOC}; {_GPU}",
        costs=Costs(14.4, 174, 1.9),
    ),
    "deeplab_v3_mobilenet_v2_voc2012": Recipe(
        dataclasses.replace(
            _VOC2012,
            backbone="mobilenet_v2",
            multi_grid=(1, 1, 1),
            atrous_rates=(),
            weight_decay=4e-5,
        ),
        what="DeepLabV3 on MobileNetV2 as for phones: ASPP without its 3x3. The paper "
        "does not state how it is trained: this is DeepLabV3's protocol, with the "
        "weight decay of the authors' code.",
        paper="75.32 on val at output stride 16, 77.33 at 8 with scales and flip, both "
        "after COCO (1801.04381, table 7)",
        needs=f"{_VOC}; {_IMAGENET}; for the paper's figure first COCO: "
        "--recipe=deeplab_v3_coco --backbone=mobilenet_v2 --set=multi_grid=[1,1,1] "
        "--set=atrous_rates=[] --set=weight_decay=4e-5 "
        f"--workdir=runs/mobilenet_v2_coco, then --init=runs/mobilenet_v2_coco; {_GPU}",
        costs=Costs(6.0, 4454, 0.1, time="9 minutes or more on an H200, estimated"),
    ),
    "deeplab_v3_cityscapes": Recipe(
        dataclasses.replace(
            _VOC2012,
            data_dir="runs/data/cityscapes",
            train_split="train",
            crop_size=(769, 769),
            steps=90_000,
        ),
        what="DeepLabV3 on Cityscapes, evaluated on whole images of 1024x2048.",
        paper="77.23 on val at output stride 16, 77.82 at 8, 79.30 with scales and "
        "flip (1706.05587, appendix B)",
        needs=f"{_CITYSCAPES}; {_IMAGENET}; {_GPU}",
        costs=Costs(31.0, 79, 1.9),
    ),
    "deeplab_v3plus_voc2012": Recipe(
        dataclasses.replace(_VOC2012, model="deeplab_v3plus"),
        what="DeepLabV3+ on ResNet-101.",
        paper="78.85 on val at output stride 16, 79.35 at 8 (1802.02611, table 3)",
        needs=f"{_VOC}; {_IMAGENET}; {_GPU}",
        costs=Costs(15.8, 133, 1.9),
    ),
    "deeplab_v3plus_xception65_voc2012": Recipe(
        _XCEPTION65,
        what="DeepLabV3+ on the aligned Xception.",
        paper="79.79 on val at output stride 16 (1802.02611, table 5)",
        needs=f"{_xception(65)}; {_VOC}; {_GPU}",
        costs=Costs(28.0, 226, 1.3, time="35 minutes or more on an H200, estimated"),
    ),
    "deeplab_v3plus_xception71_voc2012": Recipe(
        _XCEPTION71,
        what="DeepLabV3+ on the deeper Xception-71, by the protocol of Xception-65.",
        paper="none: the papers have it on Cityscapes alone",
        needs=f"{_xception(71)}; {_VOC}; {_GPU}",
        costs=Costs(35.3, 185, 1.4, time="43 minutes or more on an H200, estimated"),
    ),
    "deeplab_v3plus_coco": Recipe(
        dataclasses.replace(
            _XCEPTION65,
            data_dir="runs/data/coco",
            train_split="train",
            steps=100_000,
            min_labelled_pixels=1001,
        ),
        what="DeepLabV3+ on COCO's images of VOC's classes with more than 1,000 "
        "annotated pixels, as DeepLabV3. The paper does not state the steps.",
        paper="none of its own",
        needs=f"{_xception(65)}; {_COCO}; {_GPU}",
        costs=Costs(28.0, 226, 1.3, time="2 hours or more on an H200, estimated"),
    ),
    "deeplab_v3plus_voc2012_from_coco": Recipe(
        dataclasses.replace(
            _XCEPTION65, init="runs/deeplab_v3plus_coco", learning_rate=0.0001
        ),
        what="DeepLabV3+ on VOC from the COCO run. The paper does not state the "
        "learning rate: it is DeepLabV3's after COCO.",
        paper="82.20 on val at output stride 16, 83.34 with scales and flip "
        "(1802.02611, table 5)",
        needs=f"the run of deeplab_v3plus_coco; {_VOC}; {_GPU}",
        costs=Costs(28.0, 226, 1.3, time="35 minutes or more on an H200, estimated"),
    ),
    "deeplab_v3plus_xception65_cityscapes": Recipe(
        dataclasses.replace(
            _XCEPTION65,
            data_dir="runs/data/cityscapes",
            train_split="train",
            crop_size=(769, 769),
            steps=90_000,
        ),
        what="DeepLabV3+ on Cityscapes. Crop and steps are those of the authors' code, "
        "which asks for batches over 8; learning rate and batch are VOC's.",
        paper="78.79 on val at output stride 16, 79.14 without image pooling "
        "(--set=image_pooling=false) (1802.02611, table 7); 80.42 at 8 with scales and "
        "flip (the authors' model zoo)",
        needs=f"{_xception(65)}; {_CITYSCAPES}; {_GPU}",
        costs=Costs(61.6, 102, 1.3, time="4 hours or more on an H200, estimated"),
    ),
    "deeplab_v3plus_xception71_cityscapes": Recipe(
        dataclasses.replace(
            _XCEPTION71,
            image_pooling=False,
            data_dir="runs/data/cityscapes",
            train_split="train",
            crop_size=(769, 769),
            steps=90_000,
        ),
        what="DeepLabV3+ on Xception-71 without image pooling, the paper's best on "
        "Cityscapes; the rest as for Xception-65.",
        paper="79.55 on val at output stride 16, 82.1 on test after the coarse labels "
        "too (1802.02611, table 7)",
        needs=f"{_xception(71)}; {_CITYSCAPES}; {_GPU}",
        costs=Costs(77.9, 84, 1.4, time="5 hours or more on an H200, estimated"),
    ),
    "deeplab_v3plus_xception65_ade20k": Recipe(
        dataclasses.replace(
            _XCEPTION65,
            data_dir="runs/data/ade20k",
            train_split="train",
            steps=150_000,
        ),
        what="DeepLabV3+ on ADE20K, 150 classes. Crop, steps and dilations are those "
        "of the authors' code. It makes the longer side of an image 513 pixels first; "
        "here images keep their size. It names no learning rate, and batches over 12: "
        "both are VOC's.",
        paper="45.65 on val at output stride 8 with scales and flip (the authors' "
        "model zoo)",
        needs=f"{_xception(65)}; python -m datasets.build_ade20k "
        f"--input_dir=ADEChallengeData2016; {_GPU}",
        costs=Costs(28.0, 226, 1.3, time="3 hours or more on an H200, estimated"),
    ),
    "deeplab_v2_voc2012": Recipe(
        _V2,
        what="DeepLabV2 on ResNet-101: ASPP by sum, three scales fused by maximum, "
        "each with a loss where its features lie; evaluate.py --crf sharpens it.",
        paper="71.27 on val with scales alone; 76.35 with COCO, ASPP and more, 77.69 "
        "with the CRF (1606.00915, section 4.1.2)",
        needs=f"{_VOC}; {_IMAGENET} (the paper began with COCO's); {_GPU}",
        costs=Costs(16.4, 89, 1.4),
    ),
    "deeplab_v2_vgg16_voc2012": Recipe(
        dataclasses.replace(
            _V2,
            backbone="vgg16",
            learning_rate=0.001,
            input_scales=(1.0,),
            min_scale=1.0,
            max_scale=1.0,
            frozen_batch_norm=False,
        ),
        what="DeepLabV2 on VGG-16: ASPP-L, one scale, images at their size; "
        "evaluate.py --crf sharpens it.",
        paper="68.96 on val, 71.57 with the CRF (1606.00915, table 3)",
        needs=f"{_VOC}; {_IMAGENET}; {_GPU}",
        costs=Costs(4.4, 152, 1.2),
    ),
    "deeplab_v2_pascal_context": Recipe(
        dataclasses.replace(
            _V2, data_dir="runs/data/pascal_context", train_split="train"
        ),
        what="DeepLabV2 on ResNet-101 on PASCAL-Context, 59 classes and background. "
        "The paper does not state the steps: the protocol is VOC's.",
        paper="45.7 on val with COCO, scales, ASPP and the CRF (1606.00915, section "
        "4.2)",
        needs="python -m datasets.build_pascal_context --input_dir=pascal-context "
        f"--devkit_dir=VOCdevkit/VOC2010; {_IMAGENET} (the paper began with COCO's); "
        f"{_GPU}",
        costs=Costs(16.4, 89, 1.4),
    ),
    "deeplab_v1_voc2012": Recipe(
        dataclasses.replace(
            _VOC2012,
            model="deeplab_v1",
            backbone="vgg16",
            output_stride=8,
            crop_size=(321, 321),
            min_scale=1.0,
            max_scale=1.0,
            batch_size=20,
            steps=6_000,
            schedule="step",
            decay_steps=2_000,
            learning_rate=0.001,
            head_multiplier=10.0,
            head_bias_multiplier=10.0,
            label_stride=8,
            weight_decay=5e-4,
            batch_norm_momentum=None,
        ),
        what="DeepLab-LargeFOV on VGG-16; evaluate.py --crf sharpens it.",
        paper="62.25 on val, 67.64 with the CRF (1412.7062, table 1)",
        needs=f"{_VOC}; {_IMAGENET}; one GPU",
        costs=Costs(
            6.2,
            240,
            0.7,
            memory="3.6 GB of an H200 in bfloat16 (docs/benchmarks.md)",
            time="3 minutes on an H200 in bfloat16, 716 images a second",
        ),
    ),
}


def recipe_config(name: str) -> TrainConfig:
    """Returns the configuration of a recipe, which carries its name.

    Raises:
      ValueError: no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(
            f"recipe must be one of {list(RECIPES)}. Received: {name!r}."
            f"{did_you_mean(name, RECIPES)}"
        )
    return dataclasses.replace(RECIPES[name].config, recipe=name)
