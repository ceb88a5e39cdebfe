"""Quantises a model of floats as ONNX Runtime's users do: statically, with made-up calibration data
that is the same every time.

usage: quantise.py MODEL FORMAT OUTPUT, where FORMAT is qdq or qoperator
"""

import pathlib
import sys

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static,
)

FORMATS = {"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}
ACTIVATIONS = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}


class Frames(CalibrationDataReader):
    """A few frames of values from 0 to 1."""

    def __init__(self, model: pathlib.Path, count: int):
        graph = onnx.load(model, load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer}
        (value,) = [value for value in graph.input if value.name not in constants]
        dims = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        rng = np.random.default_rng(11)
        self.frames = iter([{value.name: rng.random(dims, dtype=np.float32)}
                            for _ in range(count)])

    def get_next(self):
        return next(self.frames, None)


def quantise(model: pathlib.Path, form: str, output: pathlib.Path, activations: str = "u8") -> None:
    """u8 maps, i8 weights with a scale for each output channel."""
    quantize_static(
        str(model), str(output), Frames(model, 2), quant_format=FORMATS[form], per_channel=True,
        activation_type=ACTIVATIONS[activations], weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax)


if __name__ == "__main__":
    quantise(pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]),
             *sys.argv[4:])
