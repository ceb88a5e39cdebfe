"""Compares Tilehive with ONNX Runtime on whole networks, and tiled with whole bit for bit.

Each architecture of the zoo is written as ONNX, and so is read by both. The input is a picture-like
array in 0..1 with a fixed seed: coarse noise enlarged smoothly, plus a little fine noise. Then

* ONNX Runtime computes it, without its own rewrites of the graph,
* Tilehive computes it whole: embedded, --strategy local,
* Tilehive computes it in tiles over local worker processes: --workers 3 --strategy deepthings, and
  for the smaller models also --workers 2 --strategy modnn, and --workers 3 with --handover exchange.

A model passes when every output of both is within 1e-4 of ONNX Runtime's, as max |a-b| / max |b|,
and the tiled ones equal the whole one bit for bit. The model of the demo, assets/superres-x2.onnx,
takes any size and enlarges assets/astronaut.jpg.

The times are makespans of one cold frame, weights included, of a machine whose cores the workers
share: they tell of a regression, not of a speed-up. A reassigned task does not fail a model, but in
a healthy cluster there should be none.

usage: zoo.py [--binary PATH] [--quick] [--filter TEXT]
"""

import argparse
import dataclasses
import json
import math
import pathlib
import re
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort
from PIL import Image

from binary import ROOT, Tilehive, default_path, table

TOLERANCE = 1e-4
TIMEOUT_S = 180


@dataclasses.dataclass
class Size:
    """At which size a network of the zoo runs, and how much of it."""

    rows_x_cols: str
    # A stage a layer over TCP: for networks that are not too large for it.
    modnn: bool = True
    quick: bool = False


# Smaller than usual where the network permits, so that all of it takes minutes on two cores.
SIZES = {
    "vgg16": Size("224x224", modnn=False),
    "yolov2": Size("320x320", modnn=False),
    "tiny-yolov2": Size("224x224", quick=True),
    "resnet50": Size("224x224", modnn=False),
    "mobilenetv2": Size("224x224", quick=True),
    "unet": Size("128x128", quick=True),
    "squeezenet": Size("224x224", quick=True),
    "alexnet": Size("224x224", modnn=False),
    "googlenet": Size("224x224", modnn=False),
    "densenet121": Size("224x224", modnn=False),
    "mobilenetv3": Size("224x224", quick=True),
    "efficientnet-b0": Size("224x224", modnn=False),
    "shufflenetv2": Size("224x224", quick=True),
    "yolov3-tiny": Size("224x224", modnn=False),
    "yolov8n": Size("320x320", modnn=False),
    "espcn": Size("160x192", quick=True),
    "dncnn": Size("96x112", modnn=False),
    "rrdb": Size("48x64", quick=True),
}


class Bad(Exception):
    """Why a model did not pass."""


@dataclasses.dataclass
class Row:
    """What is known of a model, column by column."""

    model: str
    multiply_adds: str = "-"
    whole_error: float = math.nan
    tiled_error: float = math.nan
    fast_error: float = math.nan
    identical: str = "-"
    ort_ms: float = math.nan
    whole_ms: float = math.nan
    tiled_ms: float = math.nan
    modnn_ms: float = math.nan
    exchange_ms: float = math.nan
    reassigned: int = 0
    why: str = ""

    HEADER = ["model", "mult-adds", "error whole", "error tiled", "error fast", "tiled = whole", "ORT ms",
              "whole ms", "deepthings ms", "modnn ms", "exchange ms", "reassigned", "verdict"]

    def cells(self) -> list[str]:
        def shown(value, style):
            return "-" if math.isnan(value) else format(value, style)
        errors = [shown(e, ".1e") for e in (self.whole_error, self.tiled_error, self.fast_error)]
        times = [shown(t, ".0f") for t in
                 (self.ort_ms, self.whole_ms, self.tiled_ms, self.modnn_ms, self.exchange_ms)]
        verdict = "FAILED" if self.why else "passed"
        return [self.model, self.multiply_adds, *errors, self.identical, *times,
                str(self.reassigned), verdict]


def picture(rows: int, cols: int) -> np.ndarray:
    """Smooth shapes with a little noise, from 0 to 1, the same for everybody."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (rows // 16, cols // 16, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((cols, rows), Image.Resampling.BICUBIC)
    noise = rng.normal(0.0, 0.03, (rows, cols, 3))
    values = np.clip(np.asarray(smooth) / 255.0 + noise, 0.0, 1.0).astype(np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def photograph(path: pathlib.Path) -> np.ndarray:
    values = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / np.float32(255.0)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def checked(ended, what: str) -> str:
    if ended.code != 0:
        raise Bad(f"{what}: exit {ended.code}: {ended.error}")
    return ended.stdout


def onnx_runtime(model: pathlib.Path, values: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    began = time.monotonic()
    answers = session.run(None, {taken.name: values})
    took_ms = (time.monotonic() - began) * 1e3
    return {o.name: answer for o, answer in zip(session.get_outputs(), answers)}, took_ms


def run(tilehive: Tilehive, model, taken, output, *arguments) -> tuple[dict, dict]:
    """The outputs of a run and its report."""
    ended = tilehive("run", model, taken, "-o", output, "--json", *arguments, timeout_s=TIMEOUT_S)
    report = json.loads(checked(ended, " ".join(map(str, arguments))))
    with np.load(output) as answers:
        return dict(answers), report


def error(got: dict, expected: dict) -> float:
    """The largest relative error of any output."""
    if got.keys() != expected.keys():
        raise Bad(f"outputs {sorted(got)} for {sorted(expected)}")
    worst = 0.0
    for name, want in expected.items():
        if got[name].shape != want.shape:
            raise Bad(f"output `{name}`: dims {got[name].shape} for {want.shape}")
        if not np.isfinite(got[name]).all() or not want.any():
            raise Bad(f"output `{name}` is not finite, or nothing at all")
        difference = np.abs(got[name].astype(np.float64) - want).max()
        worst = max(worst, float(difference / np.abs(want).max()))
    return worst


def identical(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def judge(tilehive: Tilehive, row: Row, model: pathlib.Path, values: np.ndarray, modnn: bool,
          folder: pathlib.Path) -> None:
    """Fills a row, and raises what is bad about the model."""
    size = "x".join(map(str, values.shape[2:]))
    inspected = checked(tilehive("model", "inspect", model, "--input-size", size, timeout_s=60),
                        "model inspect")
    row.multiply_adds = re.search(r", (\S+(?: [kMGT])?) multiply-adds", inspected)[1]
    taken = folder / "input.npy"
    np.save(taken, values)
    expected, row.ort_ms = onnx_runtime(model, values)

    def tiled(name, *arguments):
        answers, report = run(tilehive, model, taken, folder / f"{name}.npz", *arguments,
                              "--numerics", "exact")
        row.tiled_error = max(error(answers, expected),
                              0.0 if math.isnan(row.tiled_error) else row.tiled_error)
        same = identical(answers, whole)
        row.identical = "yes" if same and row.identical != "no" else "no"
        if not same:
            raise Bad(f"{name} differs from whole")
        row.reassigned += report["reassigned"]
        idle = [w["name"] for w in report["workers"] if w["tiles"] == 0]
        if idle:
            raise Bad(f"{name}: {', '.join(idle)} computed nothing")
        return report

    whole, report = run(tilehive, model, taken, folder / "whole.npz", "--strategy", "local",
                        "--numerics", "exact")
    row.whole_ms = report["makespan_ms"][0]
    row.whole_error = error(whole, expected)
    # A small network would be left to one worker, and whoever has the weights first would take all.
    report = tiled("deepthings", "--workers", 3, "--strategy", "deepthings", "--grid", "3x2",
                   "--no-stealing")
    row.tiled_ms = report["makespan_ms"][0]
    if modnn:
        row.modnn_ms = tiled("modnn", "--workers", 2, "--strategy", "modnn")["makespan_ms"][0]
        # Each layer is a stage whose map stays on the workers.
        report = tiled("exchange", "--workers", 3, "--strategy", "modnn", "--handover", "exchange")
        row.exchange_ms = report["makespan_ms"][0]
        if report["exchanged_bytes"] == 0:
            raise Bad("exchange: the workers sent each other nothing")
    # With Winograd the last bits depend on the plan, but no plan may be far off.
    for name, plan in [("whole", ["local"]), ("tiled", ["deepthings", "--workers", 3, "--grid", "3x2"])]:
        answers, _ = run(tilehive, model, taken, folder / f"fast-{name}.npz", "--strategy", *plan,
                         "--numerics", "fast")
        row.fast_error = max(error(answers, expected),
                             0.0 if math.isnan(row.fast_error) else row.fast_error)
    if max(row.whole_error, row.tiled_error, row.fast_error) > TOLERANCE:
        raise Bad(f"the error is above {TOLERANCE:g}")


def zoo(tilehive: Tilehive, quick: bool) -> list[tuple[str, Size]]:
    listed = checked(tilehive("model", "list", timeout_s=60), "model list").split()
    names = [name.removeprefix("zoo:") for name in listed]
    if set(names) != set(SIZES):
        raise Bad(f"the zoo has {names}, this script knows {list(SIZES)}")
    return [(name, SIZES[name]) for name in names if SIZES[name].quick or not quick]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, default=default_path())
    parser.add_argument("--quick", action="store_true", help="the small ones only")
    parser.add_argument("--filter", default="", help="only models whose name contains this")
    arguments = parser.parse_args()
    if not arguments.binary.is_file():
        sys.exit(f"error: there is no {arguments.binary}\nhint: use scripts/oracle/run")
    rows = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tilehive-zoo-") as name:
        folder = pathlib.Path(name)
        tilehive = Tilehive(arguments.binary, folder / "state")
        try:
            jobs = zoo(tilehive, arguments.quick)
        except Bad as bad:
            sys.exit(f"error: {bad}")
        superres, photo = ROOT / "assets/superres-x2.onnx", ROOT / "assets/astronaut.jpg"
        if superres.is_file() and superres.stat().st_size > 0:
            jobs.append((superres.stem, None))
        for name, size in jobs:
            if arguments.filter not in name:
                continue
            row = Row(f"{name}@{size.rows_x_cols}" if size else name)
            rows.append(row)
            try:
                if size is None:
                    model, values, modnn = superres, photograph(photo), True
                    row.model += "@" + "x".join(map(str, values.shape[2:]))
                else:
                    model, modnn = folder / f"{name}.onnx", size.modnn
                    values = picture(*map(int, size.rows_x_cols.split("x")))
                    exported = tilehive("model", "export", f"zoo:{row.model}", "-o", model,
                                        timeout_s=TIMEOUT_S)
                    checked(exported, "model export")
                judge(tilehive, row, model, values, modnn, folder)
            except Exception as bad:
                row.why = str(bad) if isinstance(bad, Bad) else f"{type(bad).__name__}: {bad}"
            if size is not None:
                # VGG-16 alone is half a gigabyte.
                model.unlink(missing_ok=True)
            print(f"{row.model}: {row.why or 'passed'}", file=sys.stderr, flush=True)
    print(table(Row.HEADER, [row.cells() for row in rows]))
    for row in rows:
        if row.why:
            print(f"FAILED {row.model}: {row.why}")
    failed = sum(bool(row.why) for row in rows)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    print(f"{len(rows) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
