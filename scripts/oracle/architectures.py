"""Compares Tilehive with ONNX Runtime on networks as exporters write them, and tiled with whole.

The files are those of exporters/export.py and the light models of the `onnx` package. Each runs whole
(embedded, --strategy local), in tiles over local worker processes (--workers 2), and with fast numerics.
It passes when every output of all three is within 1e-4 of ONNX Runtime's, as max |a-b| / max |b|, and the
tiled one equals the whole one bit for bit (both with --numerics exact).

usage: architectures.py --binary PATH --models FOLDER [--filter TEXT]
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort

from binary import Tilehive, default_path, table
from zoo import TOLERANCE, Bad, checked, error, identical, picture

TIMEOUT_S = 300
HEADER = ["model", "layers", "whole", "tiled", "exchange", "fast", "tiled = whole", "verdict"]


def sample(declared: list, kind: str) -> np.ndarray:
    """A picture with the dims that an input declares; open ones are a batch of 1 and 224 rows and cols."""
    dims = [dim if isinstance(dim, int) and dim > 0 else None for dim in declared]
    is_last = dims[3] == 3
    rows, cols = (dims[1:3] if is_last else dims[2:])
    rows, cols = rows or 224, cols or 224
    values = picture(-(-rows // 16) * 16, -(-cols // 16) * 16)[:, :, :rows, :cols]
    values = values.transpose(0, 2, 3, 1) if is_last else values
    return np.ascontiguousarray(values.astype(np.float16 if kind == "tensor(float16)" else np.float32))


def judge(tilehive: Tilehive, model: pathlib.Path, folder: pathlib.Path) -> list[str]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    values = sample(taken.shape, taken.type)
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, {taken.name: values})))
    expected = {name: value.astype(np.float32) for name, value in expected.items()}
    # A half float's own rounding is no error of ours.
    tolerance = 1e-2 if values.dtype == np.float16 else TOLERANCE
    np.save(folder / "input.npy", values.astype(np.float32))
    answers, errors = {}, []
    ways = {"whole": ["--strategy", "local", "--numerics", "exact"],
            "tiled": ["--workers", 2, "--strategy", "deepthings", "--grid", "2x1", "--numerics", "exact"],
            "exchange": ["--workers", 2, "--strategy", "coedge", "--numerics", "exact"],
            "fast": ["--workers", 2, "--strategy", "deepthings", "--grid", "2x1", "--numerics", "fast"]}
    for way, arguments in ways.items():
        output = folder / f"{way}.npz"
        ended = tilehive("run", model, folder / "input.npy", "-o", output, "--json", *arguments,
                         timeout_s=TIMEOUT_S)
        json.loads(checked(ended, way))
        with np.load(output) as written:
            answers[way] = dict(written)
        errors.append(error(answers[way], expected))
    same = all(identical(answers["whole"], answers[way]) for way in ("tiled", "exchange"))
    layers = str(len(onnx.load(model, load_external_data=False).graph.node))
    row = [layers, *(f"{e:.1e}" for e in errors), "yes" if same else "no"]
    if not same:
        raise Bad("tiled differs from whole")
    if max(errors) > tolerance:
        raise Bad(f"the error {max(errors):.1e} is above {tolerance:g}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, default=default_path())
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--filter", default="", help="only models whose name contains this")
    arguments = parser.parse_args()
    light = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    models = sorted(arguments.models.glob("*.onnx")) + sorted(light.glob("*.onnx"))
    rows, failed = [], []
    with tempfile.TemporaryDirectory(prefix="tilehive-architectures-") as name:
        folder = pathlib.Path(name)
        tilehive = Tilehive(arguments.binary, folder / "state")
        for model in models:
            if arguments.filter not in model.stem:
                continue
            try:
                rows.append([model.stem, *judge(tilehive, model, folder), "passed"])
            except Exception as bad:
                why = str(bad) if isinstance(bad, Bad) else f"{type(bad).__name__}: {bad}"
                failed.append(f"FAILED {model.stem}: {why}")
                rows.append([model.stem, *["-"] * (len(HEADER) - 2), "FAILED"])
            print(f"{model.stem}: {rows[-1][-1]}", file=sys.stderr, flush=True)
    print(table(HEADER, rows))
    print("\n".join(failed))
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed", flush=True)
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
