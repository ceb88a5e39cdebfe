#!/usr/bin/env python3
"""Boxes that `vision` reads out of raw outputs, compared with a decoding in numpy of the same numbers.

The numpy side is written from the papers and the configurations of the published models, and shares no code with
the Rust side. Where the Python has `ultralytics`, `onnxruntime` and exported models (`--models DIR`), raw outputs of
these are also read by Ultralytics' own `non_max_suppression` and `scale_boxes`, and compared.

usage: scripts/oracle/vision.py [--example PATH] [--models DIR] [--seeds N]
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
COCO_V2 = [[0.57273, 0.677385], [1.87446, 2.06253], [3.33843, 5.47434], [7.88282, 3.52778], [9.77052, 9.16828]]
TINY = [[10, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]]
V3 = [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]
V4 = [[12, 16], [19, 36], [40, 28], [36, 75], [76, 55], [72, 146], [142, 110], [192, 243], [459, 401]]


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def softmax(x, axis):
    powers = np.exp(x.astype(np.float64) - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def corners(xywh):
    x, y, w, h = np.moveaxis(np.asarray(xywh, np.float64), -1, 0)
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


def grid(raw, anchors, size, reach=1.0, v2=False):
    """[1, anchors * (5 + classes), rows, cols] as boxes and scores."""
    _, channels, rows, cols = raw.shape
    each = channels // len(anchors)
    values = raw.reshape(len(anchors), each, rows, cols).transpose(0, 2, 3, 1)
    step = np.array([size[1] / cols, size[0] / rows])
    cell = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), -1)[None]
    centre = (sigmoid(values[..., :2]) * reach - (reach - 1) / 2 + cell) * step
    sides = np.exp(values[..., 2:4].astype(np.float64)) * np.array(anchors)[:, None, None]
    if v2:
        sides = sides * step
    classes = softmax(values[..., 5:], -1) if v2 else sigmoid(values[..., 5:])
    scores = sigmoid(values[..., 4:5]) * classes
    return corners(np.concatenate([centre, sides], -1)).reshape(-1, 4), scores.reshape(-1, each - 5)


def cells(size, steps=(8, 16, 32)):
    """Column, row and step of each cell, finest map first."""
    every = []
    for step in steps:
        cols, rows = np.meshgrid(np.arange(size[1] // step), np.arange(size[0] // step))
        every.append(np.stack([cols, rows, np.full_like(cols, step)], -1).reshape(-1, 3))
    return np.concatenate(every)


def suppress(boxes, scores, confidence, overlap, most=300):
    """Greedy, class by class, from the definition."""
    best = scores.argmax(1)
    scores = scores.max(1)
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= confidence]
    area = lambda b: np.prod(np.clip(b[..., 2:] - b[..., :2], 0, None), -1)
    kept = []
    for i in order:
        if kept:
            same = [k for k in kept if best[k] == best[i]]
            low = np.maximum(boxes[same, :2], boxes[i, :2])
            high = np.minimum(boxes[same, 2:], boxes[i, 2:])
            both = np.prod(np.clip(high - low, 0, None), -1)
            either = area(boxes[same]) + area(boxes[i]) - both
            if np.any(both / np.maximum(either, 1e-12) > overlap):
                continue
        kept.append(i)
        if len(kept) == most:
            break
    return [[*boxes[i], scores[i], best[i]] for i in kept]


def back(found, size, picture):
    """From a letterboxed input to the picture."""
    scale = min(size[0] / picture[0], size[1] / picture[1])
    rows, cols = round(picture[0] * scale), round(picture[1] * scale)
    top, left = (size[0] - rows) // 2, (size[1] - cols) // 2
    found = np.array(found, np.float64).reshape(-1, 6)
    found[:, [0, 2]] = np.clip((found[:, [0, 2]] - left) * picture[1] / cols, 0, picture[1])
    found[:, [1, 3]] = np.clip((found[:, [1, 3]] - top) * picture[0] / rows, 0, picture[0])
    return found


def cases(random, size):
    """Name, convolutions, raw outputs, and what they mean: boxes and scores in the input's pixels."""
    rows, cols = size
    draw = lambda *dims: random.normal(0, 1.2, dims).astype(np.float32)

    def logits(*dims):
        raw = draw(*dims)
        raw[:, 4::85] -= 2
        return raw

    maps = {step: logits(1, 255, rows // step, cols // step) for step in (8, 16, 32)}
    raw = logits(1, 425, rows // 32, cols // 32)
    yield "yolov2", 23, [raw], grid(raw, COCO_V2, size, v2=True)

    def several(steps, anchors, reaches):
        parts = [grid(maps[s], a, size, r) for s, a, r in zip(steps, anchors, reaches)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    yield "yolov3-tiny", 13, [maps[32], maps[16]], several((16, 32), (TINY[:3], TINY[3:]), (1, 1))
    yield "yolov4-tiny", 21, [maps[32], maps[16]], several((16, 32), (TINY[1:4], TINY[3:]), (1.05, 1.05))
    three = (8, 16, 32)
    yield "yolov3", 75, [maps[8], maps[16], maps[32]], several(three, (V3[:3], V3[3:6], V3[6:]), (1, 1, 1))
    yield "yolov4", 110, [maps[32], maps[8], maps[16]], several(three, (V4[:3], V4[3:6], V4[6:]), (1.2, 1.1, 1.05))

    count = len(cells(size))
    place = lambda n: np.concatenate([random.uniform(0, cols, (n, 1)), random.uniform(0, rows, (n, 1)),
                                      random.uniform(5, cols / 2, (n, 2))], 1)
    rows5 = np.concatenate([place(3 * count), random.uniform(0, 1, (3 * count, 81)) ** 2], 1).astype(np.float32)
    yield "yolov5", 60, [rows5[None]], (corners(rows5[:, :4]), rows5[:, 4:5].astype(np.float64) * rows5[:, 5:])

    rowsx = np.concatenate([draw(count, 4), random.uniform(0, 1, (count, 81)) ** 2], 1).astype(np.float32)
    at = cells(size)
    xywh = np.concatenate([(rowsx[:, :2] + at[:, :2]) * at[:, 2:], np.exp(rowsx[:, 2:4].astype(np.float64)) * at[:, 2:]], 1)
    yield "yolox", 60, [rowsx[None]], (corners(xywh), rowsx[:, 4:5].astype(np.float64) * rowsx[:, 5:])

    rows8 = np.concatenate([place(count), random.uniform(0, 1, (count, 80)) ** 4], 1).astype(np.float32)
    yield "yolov8", 60, [np.ascontiguousarray(rows8.T)[None]], (corners(rows8[:, :4]), rows8[:, 4:])

    parts = corners(place(1000)) / [cols, rows, cols, rows]
    parts = np.clip(parts, 0, 1).astype(np.float32)
    scores = random.normal(0, 2, (1000, 21)).astype(np.float32)
    yield "ssd", 40, [parts[None], scores[None]], (parts * [cols, rows, cols, rows], softmax(scores, 1)[:, 1:])


def torchvision_ssd():
    """Raw offsets of torchvision's two SSD networks, decoded by its own anchors and coder, and by us."""
    import torch
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList
    ssd300 = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2], [2]],
                                 scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05], steps=[8, 16, 32, 64, 100, 300])
    lite = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    random = np.random.default_rng(11)
    for name, generator, size, cells in [("SSD300", ssd300, 300, (38, 19, 10, 5, 3, 1)),
                                         ("SSDLite320", lite, 320, (20, 10, 5, 3, 2, 1))]:
        maps = [torch.zeros(1, 1, n, n) for n in cells]
        images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
        anchors = generator(images, maps)[0]
        offsets = random.normal(0, 1, (len(anchors), 4)).astype(np.float32)
        scores = random.normal(0, 1.5, (len(anchors), 91)).astype(np.float32)
        boxes = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(torch.from_numpy(offsets), anchors).numpy()
        yield name, size, [offsets[None], scores[None]], (boxes, softmax(scores, 1)[:, 1:])


def ask(example, folder, outputs, **request):
    paths = []
    for i, output in enumerate(outputs):
        paths.append(str(folder / f"{i}.npy"))
        np.save(paths[-1], np.ascontiguousarray(output, np.float32))
    request = {"outputs": paths, "head": None, "classes": None, "fit": "letterbox", "convolutions": 0,
               "masks": 0} | request
    done = subprocess.run([example, json.dumps(request)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {done.stderr.strip()}")
    answer = json.loads(done.stdout)
    return answer["head"], np.array(answer["boxes"], np.float64).reshape(-1, 6), answer["masks"]


def difference(ours, theirs):
    """The largest difference of a corner in pixels or of a score; infinite where other boxes are found."""
    if len(ours) != len(theirs):
        return float("inf")
    # Scores that differ in the last bit may change the order of two boxes.
    order = lambda found: found[np.lexsort((found[:, 0], found[:, 1], found[:, 5], np.round(-found[:, 4], 4)))]
    ours, theirs = order(ours), order(np.asarray(theirs, np.float64).reshape(-1, 6))
    return float(np.abs(ours - theirs).max(initial=0))


def ultralytics(example, folder, models):
    """Raw outputs of exported models, read by Ultralytics and by us."""
    import onnxruntime
    import torch
    try:
        from ultralytics.utils.nms import non_max_suppression
    except ImportError:
        from ultralytics.utils.ops import non_max_suppression
    from ultralytics.utils.ops import scale_boxes

    random = np.random.default_rng(3)
    for path in sorted(models.glob("yolo*.onnx")):
        session = onnxruntime.InferenceSession(path)
        size = session.get_inputs()[0].shape[2:]
        metadata = session.get_modelmeta().custom_metadata_map
        if metadata.get("task") not in ("detect", "segment"):
            continue
        picture = (427, 640)
        value = random.uniform(0, 1, (1, 3, *size)).astype(np.float32)
        raw = session.run(None, {session.get_inputs()[0].name: value})
        classes = 80
        # Untrained models say nearly the same everywhere: their boxes are moved and their scores drawn.
        boxes = raw[0].shape[2]
        raw[0][0, :4] += random.normal(0, 8, (4, boxes)).astype(np.float32)
        raw[0][0, 4:4 + classes] = random.uniform(0, 1, (classes, boxes)) * (random.uniform(0, 1, (classes, 1)) > 0.9)
        scores = np.sort(raw[0][0, 4:4 + classes].max(0))
        confidence, overlap = float(scores[-min(400, len(scores) // 2)]), 0.5
        theirs = non_max_suppression(torch.from_numpy(raw[0]), confidence, overlap, nc=classes, max_det=300)[0]
        theirs[:, :4] = scale_boxes(size, theirs[:, :4], picture)
        head, ours, _ = ask(example, folder, raw, input=size, picture=picture, classes=classes,
                            confidence=confidence, overlap=overlap)
        # Theirs keeps what is above the threshold, ours what reaches it.
        ours = ours[ours[:, 4] > np.float32(confidence)]
        yield path.name, head, len(theirs), difference(ours, theirs[:, :6].numpy())
        if metadata["task"] == "segment":
            yield path.name, "masks", *masks(example, folder, raw, size, classes, confidence, overlap)


def masks(example, folder, raw, size, classes, confidence, overlap):
    """The masks of twenty boxes by Ultralytics and by us: the largest share of pixels that differ."""
    import torch
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import process_mask_native

    random = np.random.default_rng(5)
    # Smooth prototypes, as trained ones are; those of an untrained model are flat.
    coarse = torch.from_numpy(random.normal(0, 1, (1, 32, 8, 8)).astype(np.float32))
    raw[1] = torch.nn.functional.interpolate(coarse, raw[1].shape[2:], mode="bicubic").numpy()
    raw[0][0, 4 + classes:] = random.normal(0, 1, raw[0][0, 4 + classes:].shape)
    theirs = non_max_suppression(torch.from_numpy(raw[0]), confidence, overlap, nc=classes, max_det=300)[0][:20]
    planes = process_mask_native(torch.from_numpy(raw[1][0]), theirs[:, 6:], theirs[:, :4].clone(), tuple(size))
    _, boxes, ours = ask(example, folder, raw, input=size, picture=size, classes=classes, confidence=confidence,
                         overlap=overlap, masks=20)
    assert np.abs(boxes[:20, 4] - theirs[:, 4].numpy()).max() < 1e-5, "the same boxes in the same order"
    worst, shares = 0, []
    for (top, left, rows, cols, inside), plane in zip(ours, planes.numpy()):
        mine = np.zeros(size, bool)
        mine[top:top + rows, left:left + cols] = np.array(list(inside), "U1").reshape(rows, cols) == "1"
        # The border of a box is a matter of rounding: a pixel on each side is left out.
        inner = np.zeros(size, bool)
        inner[top + 1:top + rows - 1, left + 1:left + cols - 1] = True
        different = (mine ^ (plane > 0)) & inner
        worst = max(worst, different.sum() / max(inner.sum(), 1))
        shares.append((mine & inner).sum() / max(inner.sum(), 1))
    assert sum(0.1 < share < 0.9 for share in shares) > 10, "masks that are neither empty nor full"
    return len(ours), float(worst)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--example", type=pathlib.Path, default=target / "release" / "examples" / "decode")
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    failed = count = 0

    def judge(name, head, boxes, worst, limit):
        nonlocal failed, count
        count += 1
        wrong = worst > limit or boxes == 0
        failed += wrong
        print(f"{name:24} {head:12} {boxes:4} boxes, largest difference {worst:.1e}{'   WRONG' if wrong else ''}")

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for seed in range(arguments.seeds):
            size = [(416, 416), (320, 640), (640, 320)][seed % 3]
            picture = [(333, 500), (1080, 1920), (700, 301)][seed % 3]
            for name, convolutions, raw, (boxes, scores) in cases(np.random.default_rng(seed), size):
                ranked = np.sort(scores.max(1))
                # Between two scores, so that rounding moves none across.
                confidence = float(ranked[-201:-199].mean())
                expected = back(suppress(boxes, scores, confidence, 0.2), size, picture)
                head, ours, _ = ask(arguments.example, folder, raw, input=size, picture=picture,
                                    convolutions=convolutions, confidence=confidence, overlap=0.2)
                if head != name:
                    raise SystemExit(f"error: {name} was taken for {head}")
                judge(f"numpy, seed {seed}", head, len(expected), difference(ours, expected), 0.02)
        if arguments.models:
            for name, size, raw, (boxes, scores) in torchvision_ssd():
                confidence = float(np.sort(scores.max(1))[-201:-199].mean())
                square = (size, size)
                expected = np.array(suppress(boxes, scores, confidence, 0.45), np.float64).reshape(-1, 6)
                expected[:, :4] = expected[:, :4].clip(0, size)
                head, ours, _ = ask(arguments.example, folder, raw, input=square, picture=square, fit="stretch",
                                    confidence=confidence, overlap=0.45)
                judge(f"torchvision, {name}", head, len(expected), difference(ours, expected), 0.02)
            for name, head, boxes, worst in ultralytics(arguments.example, folder, arguments.models):
                judge(name, head, boxes, worst, 0.02)
    print(f"{count - failed} passed, {failed} failed")
    sys.exit(1 if failed or not count else 0)


if __name__ == "__main__":
    main()
