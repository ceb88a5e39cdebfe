"""Writes networks as the exporters that people use write them, with random weights of a fixed seed.

The exporters are PyTorch's two (the older, which traces TorchScript, and the newer, which follows the
program and keeps weights beside the file), Ultralytics' and tf2onnx, which keeps channels last. Nothing is
downloaded: the networks come with their packages, and are not trained. Batch normalisations get random
statistics, so that folding them is seen.

usage: export.py FOLDER NAME...
       export.py --list
"""

import os
import pathlib
import shutil
import subprocess
import sys
import warnings

warnings.filterwarnings("ignore")
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", YOLO_OFFLINE="1",
                  YOLO_AUTOINSTALL="False")

# Of torchvision: how to build it, the side of its picture, and with which operator set the older
# exporter writes it.
TORCHVISION = {
    "alexnet": ("alexnet", {}, 224, 11),
    "vgg11_bn": ("vgg11_bn", {}, 224, 17),
    "googlenet": ("googlenet", {"init_weights": False, "aux_logits": False}, 224, 9),
    "inception_v3": ("inception_v3", {"init_weights": False}, 299, 17),
    "resnet18": ("resnet18", {}, 224, 9),
    "resnext50": ("resnext50_32x4d", {}, 224, 17),
    "densenet121": ("densenet121", {}, 224, 17),
    "squeezenet": ("squeezenet1_1", {}, 224, 13),
    "shufflenet_v2": ("shufflenet_v2_x1_0", {}, 224, 11),
    "mobilenet_v2": ("mobilenet_v2", {}, 224, 10),
    "mobilenet_v3": ("mobilenet_v3_large", {}, 224, 11),
    "mnasnet": ("mnasnet1_0", {}, 224, 17),
    "efficientnet_b0": ("efficientnet_b0", {}, 224, 17),
    "efficientnet_v2": ("efficientnet_v2_s", {}, 224, 17),
    "regnet_y": ("regnet_y_400mf", {}, 224, 17),
    "convnext_tiny": ("convnext_tiny", {}, 224, 13),
    "fcn_resnet50": ("segmentation.fcn_resnet50", {"weights_backbone": None}, 224, 17),
    "deeplabv3": ("segmentation.deeplabv3_mobilenet_v3_large", {"weights_backbone": None}, 224, 11),
    "lraspp": ("segmentation.lraspp_mobilenet_v3_large", {"weights_backbone": None}, 224, 17),
}
ULTRALYTICS = ["yolov3-tiny", "yolov5n", "yolov8n", "yolov8n-seg", "yolov8n-cls", "yolov9t", "yolov10n",
               "yolo11n", "yolo12n"]
KERAS = {"mobilenet_v2": ("MobileNetV2", 224), "mobilenet_v3": ("MobileNetV3Small", 224),
         "efficientnet_b0": ("EfficientNetB0", 224), "densenet121": ("DenseNet121", 224),
         "xception": ("Xception", 299)}


def own_networks():
    """Networks for people who want pictures or boxes, which torchvision has not, or not so small."""
    import torch
    from torch import nn

    def conv(i, o, k=3, **options):
        return nn.Conv2d(i, o, k, padding=options.pop("padding", k // 2), **options)

    class ResidualDense(nn.Module):
        """A block of ESRGAN: each convolution sees all maps before it."""

        def __init__(self, width=32, growth=16):
            super().__init__()
            self.convs = nn.ModuleList(conv(width + i * growth, growth) for i in range(4))
            self.last = conv(width + 4 * growth, width)

        def forward(self, x):
            maps = [x]
            for layer in self.convs:
                maps.append(nn.functional.leaky_relu(layer(torch.cat(maps, 1)), 0.2))
            return x + 0.2 * self.last(torch.cat(maps, 1))

    class Rrdb(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = conv(3, 32), conv(32, 3)
            self.trunk = nn.Sequential(ResidualDense(), ResidualDense(), conv(32, 32))
            self.up = nn.ModuleList([conv(32, 32), conv(32, 32)])

        def forward(self, x):
            x = self.first(x)
            x = x + self.trunk(x)
            for layer in self.up:
                x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
                x = nn.functional.leaky_relu(layer(x), 0.2)
            return self.last(x)

    class DnCnn(nn.Module):
        def __init__(self, depth=10, width=48):
            super().__init__()
            middle = [m for _ in range(depth) for m in
                      (conv(width, width, bias=False), nn.BatchNorm2d(width), nn.ReLU())]
            self.noise = nn.Sequential(conv(3, width), nn.ReLU(), *middle, conv(width, 3))

        def forward(self, x):
            return x - self.noise(x)

    class Espcn(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(conv(3, 64, 5), nn.Tanh(), conv(64, 32), nn.Tanh(),
                                      conv(32, 27), nn.PixelShuffle(3))

        def forward(self, x):
            return self.body(x)

    class Ssd(nn.Module):
        """Two scales, four boxes a place: each head transposed, reshaped and joined, with softmax."""

        def __init__(self, classes=21, boxes=4):
            super().__init__()
            self.classes = classes
            self.trunk = nn.ModuleList([
                nn.Sequential(conv(3, 32, stride=2), nn.ReLU(), conv(32, 64, stride=2), nn.ReLU()),
                nn.Sequential(conv(64, 96, stride=2), nn.ReLU())])
            self.places = nn.ModuleList([conv(64, boxes * 4), conv(96, boxes * 4)])
            self.scores = nn.ModuleList([conv(64, boxes * classes), conv(96, boxes * classes)])

        def forward(self, x):
            places, scores = [], []
            for trunk, place, score in zip(self.trunk, self.places, self.scores):
                x = trunk(x)
                places.append(place(x).permute(0, 2, 3, 1).reshape(1, -1, 4))
                scores.append(score(x).permute(0, 2, 3, 1).reshape(1, -1, self.classes))
            return torch.cat(places, 1), torch.softmax(torch.cat(scores, 1), -1)

    class Fpn(nn.Module):
        """A pyramid: coarse maps enlarged and added to fine ones, a head shared by all."""

        def __init__(self):
            super().__init__()
            widths = [24, 48, 96]
            self.down = nn.ModuleList(
                nn.Sequential(conv(i, o, stride=2), nn.BatchNorm2d(o), nn.SiLU())
                for i, o in zip([3, *widths], widths))
            self.side = nn.ModuleList(conv(w, 32, 1) for w in widths)
            self.head = nn.Sequential(conv(32, 32), nn.GroupNorm(1, 32), nn.ReLU(), conv(32, 6))

        def forward(self, x):
            maps = []
            for down, side in zip(self.down, self.side):
                x = down(x)
                maps.append(side(x))
            for i in (1, 0):
                larger = nn.functional.interpolate(maps[i + 1], size=maps[i].shape[2:], mode="nearest")
                maps[i] = maps[i] + larger
            return tuple(self.head(m) for m in maps)

    class Mish(nn.Module):
        """The blocks of YOLOv4: Mish, a cross-stage split, spatial pyramid pooling."""

        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(conv(3, 32, stride=2), nn.BatchNorm2d(32), nn.Mish())
            self.part, self.pools = conv(16, 16), [nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13)]
            self.last = nn.Sequential(conv(128, 32, 1), nn.Mish(), conv(32, 18, 1))

        def forward(self, x):
            x = self.first(x)
            x = torch.cat([x, nn.functional.mish(self.part(x.chunk(2, 1)[1])), x[:, :16]], 1)[:, :32]
            return self.last(torch.cat([x, *[pool(x) for pool in self.pools]], 1))

    return {"rrdb": (Rrdb, (48, 64)), "dncnn": (DnCnn, (96, 112)), "espcn": (Espcn, (64, 80)),
            "ssd": (Ssd, (160, 160)), "fpn": (Fpn, (128, 160)), "yolov4-blocks": (Mish, (128, 128))}


OWN = ["rrdb", "dncnn", "espcn", "ssd", "fpn", "yolov4-blocks"]


def names() -> list[str]:
    return ([f"{name}-{exporter}" for name in [*TORCHVISION, *OWN] for exporter in ("script", "dynamo")]
            + ["resnet18-half", "mobilenet_v3-anysize"]
            + ULTRALYTICS + [f"keras-{name}" for name in KERAS])


def torch_network(name: str):
    """The network, an input, and the operator set for the older exporter."""
    import torch
    import torchvision.models

    torch.manual_seed(0)
    if name in OWN:
        build, (rows, cols) = own_networks()[name]
        network, opset = build(), 17
    else:
        path, options, side, opset = TORCHVISION[name]
        build = torchvision.models
        for part in path.split("."):
            build = getattr(build, part)
        network, rows, cols = build(weights=None, **options), side, side
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)

    class First(torch.nn.Module):
        """The first output of a network that names them."""

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            y = self.network(x)
            return y["out"] if isinstance(y, dict) else y

    return First().eval(), torch.rand(1, 3, rows, cols, generator=generator), opset


def export_torch(name: str, exporter: str, path: pathlib.Path) -> None:
    import torch

    network, taken, opset = torch_network(name)
    with torch.no_grad():
        if exporter == "dynamo":
            torch.onnx.export(network, taken, path, dynamo=True, verbose=False)
            return
        options = {"input_names": ["image"]}
        if exporter == "anysize":
            options["dynamic_axes"] = {"image": {0: "batch", 2: "height", 3: "width"}}
        torch.onnx.export(network, taken, path, dynamo=False, opset_version=opset, **options)
    if exporter == "half":
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
        onnx.save(convert_float_to_float16(onnx.load(path)), path)


def export_ultralytics(name: str, path: pathlib.Path) -> None:
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    here = os.getcwd()
    folder = path.with_suffix(".d")
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    try:
        written = YOLO(f"{name}.yaml").export(format="onnx", imgsz=320, simplify=False, opset=17)
        shutil.move(str(written), path)
    finally:
        os.chdir(here)
        shutil.rmtree(folder)


def export_keras(name: str, path: pathlib.Path) -> None:
    import tensorflow as tf

    tf.random.set_seed(0)
    build, side = KERAS[name]
    network = getattr(tf.keras.applications, build)(weights=None, input_shape=(side, side, 3))
    saved = path.with_suffix(".saved")
    network.export(str(saved), verbose=False)
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(saved), "--output",
               str(path), "--opset", "15"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(saved)


def main() -> None:
    if sys.argv[1:] == ["--list"]:
        print("\n".join(names()))
        return
    folder = pathlib.Path(sys.argv[1]).resolve()
    for name in sys.argv[2:]:
        path = folder / f"{name}.onnx"
        if name in ULTRALYTICS:
            export_ultralytics(name, path)
        elif name.startswith("keras-"):
            export_keras(name.removeprefix("keras-"), path)
        else:
            export_torch(*name.rsplit("-", 1), path)
        print(f"wrote {path}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
