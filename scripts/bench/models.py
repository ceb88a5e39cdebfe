"""The models that the engines run, written once as ONNX into a folder and kept there."""

import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Model:
    """A row of the tables."""

    name: str
    # What bench_engine exports, or an ONNX file, or another model's name for a quantised one.
    source: str
    kind: str = "networks"
    # The map at which a network is cut off.
    cut: str = ""
    # QDQ or QOperator.
    quantised: str = ""
    # Rows and columns of the input, where the source has others.
    side: int = 0
    quick: bool = False

    @property
    def stem(self) -> str:
        # pnnx names its files like an identifier.
        return "".join(c if c.isalnum() else "_" for c in self.name)


NETWORKS = [
    Model("VGG-16 conv part", "zoo:vgg16", cut="pool5", quick=True),
    Model("YOLOv2 416", "zoo:yolov2@416x416"),
    Model("U-Net 256", "zoo:unet@256x256"),
    Model("superres x2 256", str(ROOT / "assets/superres-x2.onnx")),
    Model("ResNet-50", "zoo:resnet50", quick=True),
    Model("MobileNetV2", "zoo:mobilenetv2", quick=True),
    Model("SqueezeNet", "zoo:squeezenet"),
]

INT8 = [
    Model(f"{name} int8 {style}", name, "int8", quantised=style,
          quick=name == "MobileNetV2" and style == "QDQ")
    for name in ("ResNet-50", "MobileNetV2") for style in ("QDQ", "QOperator")
]

# Large pictures, for memory.
LARGE = [
    Model("VGG-16 conv part 1024", "VGG-16 conv part", "large", side=1024),
    Model("U-Net 1024", "zoo:unet@1024x1024", "large"),
]

# A call that computes nothing: what is left is the engine's own cost of a call and, for those
# that are called from Python, Python's.
NOTHING = Model("an empty call", "", "layers", quick=True)

QUICK_LAYERS = ("VGG 3x3 64@224", "VGG 3x3 512@28", "ResNet 1x1 256-64@56", "MBv2 dw 3x3 32@112")
TILED_LAYERS = ("VGG 3x3 64@224", "VGG 3x3 128@112", "VGG 3x3 256@56", "VGG 3x3 512@28")


def layers(bench_engine: pathlib.Path) -> list[Model]:
    """Single layers; the Rust side has the list."""
    names = subprocess.run([bench_engine, "layers"], check=True, capture_output=True, text=True)
    return [NOTHING] + [Model(name, f"layer:{name}", "layers", quick=name in QUICK_LAYERS)
                        for name in names.stdout.splitlines()]


class Folder:
    """Writes models where they are missing."""

    def __init__(self, folder: pathlib.Path, bench_engine: pathlib.Path, all_models: list[Model]):
        self.folder, self.bench_engine = folder, bench_engine
        self.by_name = {model.name: model for model in all_models}
        folder.mkdir(parents=True, exist_ok=True)
        # Models made by another version of this file, or for other versions of the engines.
        made_by = hashlib.sha256(pathlib.Path(__file__).read_bytes()
                                 + (HERE / "requirements.txt").read_bytes()).hexdigest()
        stamp = folder / "made-by"
        if not stamp.exists() or stamp.read_text() != made_by:
            for old in folder.iterdir():
                old.unlink()
            stamp.write_text(made_by)

    def path(self, model: Model) -> pathlib.Path:
        """The ONNX file of a model; pnnx's files for ncnn lie beside it."""
        path = self.folder / f"{model.stem}.onnx"
        if not path.exists():
            print(f"writing {path.name}", file=sys.stderr, flush=True)
            self.write(model, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            self.convert_for_ncnn(path)
        return path

    def write(self, model: Model, path: pathlib.Path) -> None:
        import onnx
        if model.quantised:
            return quantise(self.path(self.by_name[model.source]), path, model.quantised)
        if model is NOTHING:
            return onnx.save(nothing(), path)
        if model.side:
            smaller = onnx.load(self.path(self.by_name[model.source]))
            return onnx.save(with_fixed_input(smaller, [1, 3, model.side, model.side]), path)
        source = pathlib.Path(model.source)
        if source.suffix != ".onnx":
            source = path
            subprocess.run([self.bench_engine, "export", model.source, path], check=True)
        if model.cut:
            onnx.save(cut(onnx.load(source), model.cut), path)
        elif source != path:
            onnx.save(with_fixed_input(onnx.load(source), [1, 3, 256, 256]), path)
        return None

    def convert_for_ncnn(self, path: pathlib.Path) -> None:
        import onnx
        (taken,) = onnx.load(path).graph.input
        dims = [d.dim_value for d in taken.type.tensor_type.shape.dim]
        stem = path.with_suffix("")
        pathlib.Path(f"{stem}.ncnn.dims").write_text(json.dumps(dims))
        # Its Python package asks for PyTorch when imported; the program beside it does not.
        (package,) = importlib.util.find_spec("pnnx").submodule_search_locations
        program = pathlib.Path(package) / "pnnx"
        done = subprocess.run([program, path, "fp16=0"], cwd=self.folder, capture_output=True,
                              text=True, errors="replace")
        param = pathlib.Path(f"{stem}.ncnn.param")
        strange = sorted({line.split()[0] for line in param.read_text().splitlines()[2:]
                          if "." in line.split()[0] or "::" in line.split()[0]}
                         ) if param.exists() else []
        if done.returncode != 0 or not param.exists():
            told = (done.stderr or done.stdout).strip().splitlines() or ["no word"]
            pathlib.Path(f"{stem}.ncnn.refused").write_text(f"pnnx: {told[-1]}")
        elif strange:
            pathlib.Path(f"{stem}.ncnn.refused").write_text(
                f"pnnx leaves operators that ncnn has not: {', '.join(strange)}")
        for kind in ("pnnx.param", "pnnx.bin", "pnnx.onnx", "pnnxsim.onnx", "_pnnx.py", "_ncnn.py"):
            for name in (f"{stem}.{kind}", f"{stem}{kind}"):
                pathlib.Path(name).unlink(missing_ok=True)


def cut(model, output: str):
    """The part of a model up to a map, without the weights of the rest."""
    import onnx
    made_by = {name: node for node in model.graph.node for name in node.output}
    wanted, nodes = [output], []
    while wanted:
        node = made_by.get(wanted.pop())
        if node is not None and node not in nodes:
            nodes.append(node)
            wanted.extend(node.input)
    nodes = [node for node in model.graph.node if node in nodes]
    read = {name for node in nodes for name in node.input}
    weights = [w for w in model.graph.initializer if w.name in read]
    value = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, model.graph.name, model.graph.input, [value], weights)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    part.ir_version = model.ir_version
    inferred = onnx.shape_inference.infer_shapes(part)
    del inferred.graph.value_info[:]
    return inferred


def with_fixed_input(model, dims: list[int]):
    """The same model for one size."""
    import onnx
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, dims, strict=True):
        dim.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model)
    del inferred.graph.value_info[:]
    return inferred


def nothing():
    """A ReLU of 16 values."""
    import onnx
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 16, 1, 1])
            for name in "xy")
    graph = onnx.helper.make_graph([node], "nothing", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    model.ir_version = 9
    return model


def quantise(source: pathlib.Path, path: pathlib.Path, style: str) -> None:
    """Static, per channel, asymmetric u8 activations and s8 weights, calibrated with noise."""
    import numpy as np
    import onnx
    from onnxruntime import quantization
    (taken,) = onnx.load(source).graph.input
    dims = [d.dim_value for d in taken.type.tensor_type.shape.dim]

    class Noise(quantization.CalibrationDataReader):
        def __init__(self):
            rng = np.random.default_rng(7)
            self.left = [rng.random(dims, dtype=np.float32) for _ in range(4)]

        def get_next(self):
            return {taken.name: self.left.pop()} if self.left else None

    quantization.quantize_static(
        source, path, Noise(), quant_format=quantization.QuantFormat[style], per_channel=True,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8)
