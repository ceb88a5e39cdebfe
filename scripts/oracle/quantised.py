"""Compares quantised networks with ONNX Runtime, element by element, whole and in tiles.

Networks of the zoo, at a small size, are quantised in both formats that ONNX Runtime's quantiser
writes, with u8 and with i8 maps. ONNX Runtime runs them with all its rewrites on, on one thread.
The tables count the values that differ, and by how many steps of the output's own scale. Tiled
must equal whole; more than two steps of difference fail. What is left open is only where ONNX
Runtime computes with floats: it makes u8 of some i8 maps, and has no convolution from one to the
other.

usage: quantised.py [--binary PATH] [--filter TEXT]
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile
import warnings

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from binary import Tilehive, default_path, table
from quantise import quantise

MODELS = ("squeezenet", "mobilenetv2", "resnet50")
SIZE = "96x96"
STEPS_MAX = 2
TIMEOUT_S = 300


@dataclasses.dataclass
class Row:
    """What is known of a model."""

    name: str
    differ: str = "-"
    steps: str = "-"
    identical: str = "-"
    why: str = ""

    HEADER = ["model", "values that differ", "steps", "tiled = whole", "verdict"]

    def cells(self) -> list[str]:
        return [self.name, self.differ, self.steps, self.identical,
                "FAILED" if self.why else "passed"]


def output_scale(path: pathlib.Path) -> float:
    """The scale with which the last bytes become the output."""
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    (node,) = [node for node in graph.node if graph.output[0].name in node.output]
    if node.op_type != "DequantizeLinear":
        return 0.0
    return float(numpy_helper.to_array(constants[node.input[1]]).reshape(-1)[0])


def onnx_runtime(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: values})[0]


def run(tilehive: Tilehive, model, taken, output, *arguments) -> np.ndarray:
    ended = tilehive("run", model, taken, "-o", output, "--json", *arguments, timeout_s=TIMEOUT_S)
    if ended.code != 0:
        raise RuntimeError(f"exit {ended.code}: {ended.error}")
    json.loads(ended.stdout)
    with np.load(output) as answers:
        (name,) = answers.files
        return answers[name]


def judge(tilehive: Tilehive, row: Row, model: pathlib.Path, values: np.ndarray,
          folder: pathlib.Path) -> None:
    taken = folder / "input.npy"
    np.save(taken, values)
    expected = onnx_runtime(model, values)
    whole = run(tilehive, model, taken, folder / "whole.npz", "--strategy", "local")
    tiled = run(tilehive, model, taken, folder / "tiled.npz", "--workers", 3,
                "--strategy", "deepthings")
    row.identical = "yes" if whole.tobytes() == tiled.tobytes() else "no"
    apart = np.abs(whole.astype(np.float64) - expected)
    count = int((apart > 1e-6 * np.abs(expected).max()).sum())
    row.differ = f"{count} of {apart.size}"
    scale = output_scale(model)
    # Where the network ends in floats, a step is what a byte could tell apart.
    step = scale or float(np.abs(expected).max()) / 255
    steps = float(apart.max()) / step
    row.steps = f"{steps:.2f}"
    if not expected.any() or np.unique(expected).size < 8:
        row.why = "ONNX Runtime's answer says nothing"
    elif row.identical == "no":
        row.why = "tiled differs from whole"
    elif steps > STEPS_MAX + 0.01:
        row.why = f"up to {steps:.2f} steps apart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, default=default_path())
    parser.add_argument("--filter", default="", help="only models whose name contains this")
    arguments = parser.parse_args()
    if not arguments.binary.is_file():
        sys.exit(f"error: there is no {arguments.binary}\nhint: use scripts/oracle/run")
    warnings.simplefilter("ignore")
    rows = []
    rng = np.random.default_rng(5)
    dims = [int(length) for length in SIZE.split("x")]
    values = rng.random((1, 3, *dims), dtype=np.float32)
    with tempfile.TemporaryDirectory(prefix="tilehive-quantised-") as name:
        folder = pathlib.Path(name)
        tilehive = Tilehive(arguments.binary, folder / "state")
        for model in MODELS:
            floats = folder / f"{model}.onnx"
            for form in ("qdq", "qoperator"):
                for activations in ("u8", "s8"):
                    row = Row(f"{model}@{SIZE} {form} {activations}")
                    if arguments.filter not in row.name:
                        continue
                    rows.append(row)
                    try:
                        if not floats.is_file():
                            ended = tilehive("model", "export", f"zoo:{model}@{SIZE}", "-o", floats,
                                             timeout_s=TIMEOUT_S)
                            if ended.code != 0:
                                raise RuntimeError(ended.error)
                        quantised = folder / "quantised.onnx"
                        quantise(floats, form, quantised, activations)
                        judge(tilehive, row, quantised, values, folder)
                    except Exception as error:
                        row.why = f"{type(error).__name__}: {error}"
                    print(f"{row.name}: {row.why or 'passed'}", file=sys.stderr, flush=True)
    print(table(Row.HEADER, [row.cells() for row in rows]))
    for row in rows:
        if row.why:
            print(f"FAILED {row.name}: {row.why}")
    failed = sum(bool(row.why) for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
