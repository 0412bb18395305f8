"""What is known beforehand of the data sets that have a builder: `DATASETS`.

A row gives classes, colours and the published number of examples of each split. Where
a data set publishes no colours, those of the VOC devkit stand in.
"""

from __future__ import annotations

from deeplab_tf.data.records.info import DatasetInfo, voc_colormap


def _names(text: str) -> tuple[str, ...]:
    """Splits names at commas; they may hold spaces."""
    return tuple(name.strip() for name in " ".join(text.split()).split(","))


def _colors(text: str) -> tuple[tuple[int, int, int], ...]:
    """Reads colours that are written rrggbb, in hexadecimal digits."""
    return tuple(tuple(bytes.fromhex(color)) for color in text.split())


VOC_NAMES = _names(
    """
    background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow,
    diningtable, dog, horse, motorbike, person, pottedplant, sheep, sofa, train,
    tvmonitor
    """
)
# Things and stuff of COCO, in the order of their category ids.
COCO_THING_NAMES = _names(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow,
    elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
    skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana,
    apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair,
    couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
    cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush
    """
)
COCO_STUFF_NAMES = _names(
    """
    banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard,
    carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard,
    curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
    floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit,
    furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat,
    metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
    plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock,
    roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other,
    stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree,
    vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile,
    wall-wood, water-other, waterdrops, window-blind, window-other, wood
    """
)
# Stuff of the panoptic challenge, where similar categories are merged.
COCO_PANOPTIC_STUFF_NAMES = _names(
    """
    banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood,
    flower, fruit, gravel, house, light, mirror-stuff, net, pillow, platform,
    playingfield, railroad, river, road, roof, sand, sea, shelf, snow, stairs, tent,
    towel, wall-brick, wall-stone, wall-tile, wall-wood, water-other, window-blind,
    window-other, tree-merged, fence-merged, ceiling-merged, sky-other-merged,
    cabinet-merged, table-merged, floor-other-merged, pavement-merged, mountain-merged,
    grass-merged, dirt-merged, paper-merged, food-other-merged, building-other-merged,
    rock-merged, wall-other-merged, rug-merged
    """
)
CONTEXT_NAMES = _names(
    """
    background, aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book,
    bottle, building, bus, cabinet, car, cat, ceiling, chair, cloth, computer, cow, cup,
    curtain, dog, door, fence, floor, flower, food, grass, ground, horse, keyboard,
    light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock,
    sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck,
    tvmonitor, wall, water, window, wood
    """
)
CITYSCAPES_NAMES = _names(
    """
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign,
    vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle
    """
)
CITYSCAPES_COLORS = _colors(
    """
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c
    ff0000 00008e 000046 003c64 005064 0000e6 770b20
    """
)
CAMVID_NAMES = _names(
    """
    sky, building, pole, road, pavement, tree, sign_symbol, fence, car, pedestrian,
    bicyclist
    """
)
CAMVID_COLORS = _colors(
    """
    808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0
    """
)
ADE20K_NAMES = _names(
    """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet,
    sidewalk, person, earth, door, table, mountain, plant, curtain, chair, car, water,
    painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk,
    rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest
    of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand,
    path, stairs, runway, case, pool table, pillow, screen door, stairway, river,
    bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
    countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade
    machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight,
    booth, television receiver, airplane, dirt track, apparel, pole, land, bannister,
    escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer
    belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
    tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave,
    pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce,
    vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin
    board, shower, radiator, glass, clock, flag
    """
)
ADE20K_COLORS = _colors(
    """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07
    96053d 787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff
    ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff
    e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff
    8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00
    0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014
    ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff
    00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff
    ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff
    ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff
    b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
    """
)

DATASETS = {
    "voc2012": DatasetInfo(
        name="voc2012",
        class_names=VOC_NAMES,
        # trainaug is VOC's train and all of SBD's images that are not in val.
        splits={"train": 1464, "trainaug": 10582, "trainval": 2913, "val": 1449},
    ),
    "cityscapes": DatasetInfo(
        name="cityscapes",
        class_names=CITYSCAPES_NAMES,
        # train_extra has coarse labels only.
        splits={"train": 2975, "val": 500, "train_extra": 19998},
        colormap=CITYSCAPES_COLORS,
    ),
    # COCO's objects of VOC's classes, for pretraining.
    "coco_voc": DatasetInfo(name="coco_voc", class_names=VOC_NAMES),
    "coco_panoptic": DatasetInfo(
        name="coco_panoptic",
        class_names=COCO_THING_NAMES + COCO_PANOPTIC_STUFF_NAMES,
        splits={"train": 118287, "val": 5000},
        # Without black: their class 0 is person, and no background.
        colormap=voc_colormap(134)[1:],
    ),
    "coco_stuff": DatasetInfo(
        name="coco_stuff",
        class_names=COCO_THING_NAMES + COCO_STUFF_NAMES,
        splits={"train": 118287, "val": 5000},
        colormap=voc_colormap(172)[1:],
    ),
    "pascal_context": DatasetInfo(
        name="pascal_context",
        class_names=CONTEXT_NAMES,
        splits={"train": 4998, "val": 5105},
    ),
    "person_part": DatasetInfo(
        name="person_part",
        class_names=(
            "background",
            "head",
            "torso",
            "upper arms",
            "lower arms",
            "upper legs",
            "lower legs",
        ),
        splits={"train": 1716, "val": 1817},
    ),
    # SceneParse150. Its road and its skyscraper have the same colour.
    "ade20k": DatasetInfo(
        name="ade20k",
        class_names=ADE20K_NAMES,
        splits={"train": 20210, "val": 2000},
        colormap=ADE20K_COLORS,
    ),
    # Classes and colours of SegNet's CamVid (11 classes, 480x360).
    "camvid": DatasetInfo(
        name="camvid",
        class_names=CAMVID_NAMES,
        splits={"train": 367, "val": 101, "test": 233},
        colormap=CAMVID_COLORS,
    ),
    # Drawn by datasets.build_shapes; how many is up to its flags.
    "shapes": DatasetInfo(
        name="shapes",
        class_names=("background", "disc", "triangle", "star", "ring", "cross", "bar"),
    ),
}
