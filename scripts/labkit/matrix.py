"""The scenarios of `scripts/lab validate`: models x device mixes x links x strategies, and events."""

from .cells import cell
from .files import Fault

# Parts of a core: a Raspberry Pi 4 is about 0.15 of one core of the machine where this was written.
EQUAL = {n: [0.15] * n for n in (2, 3, 4, 6)}
MIXED = [0.4, 0.2, 0.1]

GROUPS = [
    ("vgg16", "zoo:vgg16", EQUAL[4], "100m", ["auto", "local", "deepthings", "modnn", "coedge"]),
    ("yolov2", "zoo:yolov2@416x416", EQUAL[3], "100m", ["auto", "deepthings", "aofl", "local"]),
    ("yolov2-mixed", "zoo:yolov2@416x416", MIXED, "1g", ["auto", "coedge", "deepthings", "offload"]),
    ("unet", "zoo:unet", EQUAL[4], "100m", ["auto", "deepthings", "coedge", "local"]),
    ("unet-slow", "zoo:unet", EQUAL[2], "20m", ["auto", "deepthings", "local", "split"]),
    ("unet-mixed", "zoo:unet", MIXED, "wifi", ["auto", "aofl", "coedge", "local"]),
    ("tiny-yolov2", "zoo:tiny-yolov2", EQUAL[4], "wifi", ["auto", "deepthings", "modnn", "local"]),
    ("resnet50", "zoo:resnet50", EQUAL[3], "100m", ["auto", "deepthings", "coedge", "local"]),
    ("resnet50-fast", "zoo:resnet50", EQUAL[6], "1g", ["auto", "deepthings", "aofl", "local"]),
    ("mobilenetv2", "zoo:mobilenetv2", EQUAL[2], "1g", ["auto", "deepthings", "coedge", "local"]),
    ("squeezenet", "zoo:squeezenet", MIXED, "20m", ["auto", "deepthings", "local", "split"]),
]

STREAMS = [
    ("resnet50", "zoo:resnet50", EQUAL[4], "100m", ["replicate", "pico", "auto"]),
    ("tiny-yolov2", "zoo:tiny-yolov2", MIXED, "100m", ["replicate", "pico", "auto"]),
]

# From the moment at which the frame begins that counts; a scenario begins at 2 s.
EVENTS = [
    ("slows-down", Fault(2.05, "slow-down", 1, times=3)),
    ("crashes", Fault(2.15, "crash", 1)),
    ("stalls", Fault(2.1, "stall", 0, for_s=0.6)),
    ("isolated", Fault(2.1, "isolate", 2, for_s=0.6)),
]


def cells():
    """All cells, in an order that mixes groups, so that a drift of the machine hits all alike."""
    made = []
    for group, model, shares, link, strategies in GROUPS:
        for strategy in strategies:
            made.append(cell(f"{group}-{strategy}", model, shares, link, strategy, group=group))
    for group, model, shares, link, strategies in STREAMS:
        for strategy in strategies:
            made.append(cell(f"stream-{group}-{strategy}", model, shares, link, strategy,
                             group=f"stream-{group}", frames=12, in_flight=4, warm=4,
                             objective="throughput"))
    for name, fault in EVENTS:
        made.append(cell(f"event-{name}", "zoo:unet", EQUAL[4], "100m", "deepthings", frames=1,
                         grid=(6, 6), faults=[fault], group="events"))
    return [c for offset in range(4) for c in made[offset::4]]
