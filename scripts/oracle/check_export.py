"""Checks that ONNX files load in ONNX Runtime and give finite values of ordinary size.

usage: check_export.py FILE.onnx...
"""

import sys

import numpy as np
import onnx
import onnxruntime as ort


def check(path: str) -> bool:
    onnx.checker.check_model(path, full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    feeds = {i.name: rng.random(i.shape, dtype=np.float32) for i in session.get_inputs()}
    is_good = True
    for output, value in zip(session.get_outputs(), session.run(None, feeds)):
        deviation = float(value.std())
        is_sane = bool(np.isfinite(value).all()) and 1e-8 < deviation and np.abs(value).max() < 1e4
        is_good &= is_sane
        print(f"{'ok ' if is_sane else 'BAD'} {path} {output.name} {value.shape}"
              f" mean {value.mean():.3g} deviation {deviation:.3g}"
              f" from {value.min():.3g} to {value.max():.3g}")
    return is_good


if __name__ == "__main__":
    results = [check(path) for path in sys.argv[1:]]
    sys.exit(0 if all(results) else 1)
