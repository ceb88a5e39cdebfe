"""Compares what ONNX Runtime computes for a file before and after our import, folding and fusing.

The importer's answer is written as ONNX again (the example `convert` of the crate `model`), so that
this needs none of our kernels. Cases: the networks and the operator tests of the onnx package, with
every input but the first turned into a constant, and small graphs of our own for the fusions.

usage: check_import.py PATH_OF_CONVERT [FILTER]
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

DATA = pathlib.Path(onnx.__file__).parent / "backend/test/data"
OPERATORS = {
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "ConstantOfShape",
    "Conv", "DepthToSpace", "Div", "Dropout", "Flatten", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LRN", "LeakyRelu", "MatMul", "Max",
    "MaxPool", "Min", "Mul", "PRelu", "Pad", "ReduceMean", "Relu", "Reshape", "Resize", "Sigmoid",
    "Softmax", "SpaceToDepth", "Squeeze", "Sub", "Sum", "Swish", "Tanh", "Transpose", "Unsqueeze",
    "Upsample",
}


def infer(path, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Its own rewrites are not what is compared, and its merging of Pad into MaxPool is not sound.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    return session.run(None, {k: v for k, v in feeds.items() if k in names})


def compare(name, convert, path, feeds, folder):
    """Returns ok, refused or BAD, and why."""
    try:
        expected = infer(path, feeds)
    except Exception as error:
        return "skipped", f"ONNX Runtime: {str(error).splitlines()[0][:120]}"
    output = folder / "converted.onnx"
    done = subprocess.run([convert, str(path), str(output)], capture_output=True, text=True)
    if done.returncode == 1:
        return "refused", done.stderr.splitlines()[0].replace(str(path), "FILE")
    if done.returncode != 0:
        return "BAD", f"exit {done.returncode}: {done.stderr[-400:]}"
    try:
        onnx.checker.check_model(str(output), full_check=True)
        answers = infer(output, feeds)
    except Exception as error:
        return "BAD", f"the written file: {error}"
    for want, got in zip(expected, answers):
        if want.shape != got.shape:
            # A number without dims has one dim here.
            if want.size != got.size or want.size != 1:
                return "BAD", f"shape {got.shape} for {want.shape}"
            want = want.reshape(got.shape)
        if not np.allclose(want, got, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(want).max())),
                           equal_nan=True):
            return "BAD", f"values differ by {np.abs(want - got).max():.3g}"
    return "ok", ""


def operator_cases(folder):
    path = folder / "case.onnx"
    for case in sorted(collect_testcases(None), key=lambda case: case.name):
        is_known = all(node.op_type in OPERATORS for node in case.model.graph.node)
        types = [i.type.tensor_type.elem_type for i in case.model.graph.input]
        if not is_known or not types or types[0] != TensorProto.FLOAT:
            continue
        arrays = list(case.data_sets[0][0])
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        inputs = list(model.graph.input)
        for value, array in zip(inputs[1:], arrays[1:]):
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
            model.graph.input.remove(value)
        onnx.save(model, path)
        yield case.name, path, {inputs[0].name: arrays[0]}
        # The same with both as maps, for layers that join maps.
        if types == [TensorProto.FLOAT] * 2:
            onnx.save(case.model, path)
            yield case.name + "+maps", path, dict(zip([i.name for i in inputs], arrays))


def network_cases(folder):
    rng = np.random.default_rng(2)
    for path in sorted((DATA / "light").glob("*.onnx")):
        model = onnx.load(path, load_external_data=False)
        constants = {i.name for i in model.graph.initializer}
        feeds = {}
        for value in model.graph.input:
            if value.name not in constants:
                dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
                feeds[value.name] = rng.random(dims, dtype=np.float32)
        yield path.stem, path, feeds


class Graph:
    """A small graph that grows."""

    def __init__(self, *dims, opset=17):
        self.nodes, self.constants, self.opset = [], [], opset
        self.dims, self.rng = dims, np.random.default_rng(3)

    def constant(self, *dims, low=-1.0, high=1.0):
        return self.value(self.rng.uniform(low, high, dims).astype(np.float32))

    def value(self, array):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, operator, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def conv(self, x, out, channels, kernel=3, **attributes):
        weights = self.constant(out, channels, kernel, kernel)
        return self.add("Conv", x, weights, self.constant(out), **attributes)

    def norm(self, x, channels):
        parts = [self.constant(channels) for _ in range(3)]
        return self.add("BatchNormalization", x, *parts, self.constant(channels, low=0.5, high=2.0))

    def save(self, path, *outputs):
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, "case",
            [info("x", TensorProto.FLOAT, self.dims)],
            [info(name, TensorProto.FLOAT, None) for name in outputs], self.constants)
        opset = [helper.make_opsetid("", self.opset)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def own_cases(folder):
    path = folder / "case.onnx"
    cases = {}

    def case(*dims, **options):
        def register(build):
            cases[build.__name__] = (dims, options, build)
        return register

    same = {"pads": [1, 1, 1, 1]}

    @case(1, 4, 8, 8)
    def conv_norm_relu(g):
        return [g.add("Relu", g.norm(g.conv("x", 6, 4, **same), 6))]

    @case(1, 4, 8, 8)
    def conv_without_bias_norm(g):
        y = g.add("Conv", "x", g.constant(6, 4, 1, 1))
        return [g.add("LeakyRelu", g.norm(y, 6), alpha=0.1)]

    @case(1, 4, 8, 8)
    def norm_with_two_readers(g):
        y = g.conv("x", 4, 4, **same)
        return [g.add("Add", g.norm(y, 4), y)]

    @case(1, 4, 8, 8)
    def conv_is_an_output(g):
        y = g.conv("x", 4, 4, **same)
        return [y, g.add("Relu", y)]

    @case(1, 4, 8, 8)
    def silu(g):
        y = g.conv("x", 4, 4, **same)
        return [g.add("Mul", g.add("Sigmoid", y), y)]

    @case(1, 4, 8, 8)
    def hard_swish(g):
        y = g.conv("x", 4, 4, **same)
        return [g.add("Mul", y, g.add("HardSigmoid", y, alpha=1 / 6, beta=0.5))]

    @case(1, 4, 8, 8)
    def squeeze_and_excite(g):
        y = g.add("GlobalAveragePool", "x")
        y = g.add("Relu", g.conv(y, 2, 4, kernel=1))
        y = g.add("HardSigmoid", g.conv(y, 4, 2, kernel=1))
        return [g.add("Mul", "x", y)]

    @case(1, 3, 8, 8)
    def arithmetic_with_constants(g):
        y = g.add("Sub", "x", g.constant(3, 1, 1))
        y = g.add("Div", y, g.constant(1, 3, 1, 1, low=0.5))
        y = g.add("Mul", g.value(np.float32(2.0)), y)
        y = g.add("Sub", g.constant(1), y)
        y = g.add("Relu", g.add("Add", y, g.constant(1, 3, 8, 8)))
        return [g.add("Div", g.constant(8), g.add("Add", y, g.value(np.float32(1.0))))]

    @case(1, 3, 8, 8)
    def ranks_are_mixed(g):
        y = g.add("Reshape", g.add("GlobalAveragePool", "x"), g.value(np.array([3, 1, 1])))
        return [g.add("Add", y, "x")]

    @case(1, 3, 8, 8)
    def batches_are_mixed(g):
        y = g.add("Concat", "x", "x", axis=0)
        return [g.add("Mul", y, "x")]

    @case(1, 3, 8, 8)
    def concat_rows_and_cols(g):
        y = g.add("Concat", "x", "x", axis=2)
        return [g.add("Concat", y, y, axis=-1)]

    @case(1, 3, 8, 8)
    def pad_then_conv_and_pool(g):
        y = g.add("Pad", "x", g.value(np.array([0, 0, 0, 1, 0, 0, 1, 2])))
        return [g.conv(y, 4, 3, pads=[0, 1, 0, 0]), g.add("MaxPool", y, kernel_shape=[2, 2])]

    @case(1, 3, 9, 7)
    def same_padding(g):
        y = g.conv("x", 4, 3, auto_pad="SAME_UPPER", strides=[2, 2])
        y = g.conv(y, 4, 4, kernel=4, auto_pad="SAME_LOWER", dilations=[1, 1])
        return [g.add("MaxPool", y, kernel_shape=[2, 2], auto_pad="SAME_LOWER")]

    @case(1, 4, 12)
    def conv_1d(g):
        y = g.add("Conv", "x", g.constant(6, 2, 3), g.constant(6), group=2, pads=[1, 1], strides=[2])
        y = g.add("Relu", g.norm(y, 6))
        return [g.add("AveragePool", y, kernel_shape=[2], strides=[2])]

    @case(1, 4, 8, 8)
    def flatten_by_shape(g):
        shape = g.add("Shape", "x")
        batch = g.add("Gather", shape, g.value(np.array(0)), axis=0)
        batch = g.add("Unsqueeze", batch, g.value(np.array([0])))
        target = g.add("Concat", batch, g.value(np.array([-1])), axis=0)
        y = g.add("Reshape", "x", target)
        y = g.add("Gemm", y, g.constant(256, 5), g.constant(5), alpha=0.5, beta=2.0)
        return [g.add("Softmax", g.add("Relu", g.norm(y, 5)))]

    @case(1, 4, 8, 8)
    def upsample_by_shape(g):
        shape = g.add("Shape", "x")
        size = g.add("Slice", shape, g.value(np.array([2])), g.value(np.array([4])))
        size = g.add("Mul", size, g.value(np.array([2, 3])))
        head = g.add("Slice", shape, g.value(np.array([0])), g.value(np.array([2])))
        sizes = g.add("Concat", head, size, axis=0)
        return [g.add("Resize", "x", "", "", sizes, mode="linear",
                      coordinate_transformation_mode="align_corners")]

    @case(1, 4, 8, 8, opset=10)
    def resize_10(g):
        y = g.add("Resize", "x", g.value(np.array([1, 1, 2, 1.5], np.float32)), mode="nearest")
        return [g.add("Resize", y, g.value(np.array([1, 1, 1.5, 2], np.float32)), mode="linear")]

    @case(1, 4, 8, 8, opset=9)
    def upsample_9(g):
        return [g.add("Upsample", "x", g.value(np.array([1, 1, 2, 2], np.float32)), mode="nearest")]

    @case(1, 4, 8, 8, opset=8)
    def old_attributes(g):
        y = g.add("Upsample", "x", scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")
        y = g.add("Pad", y, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5)
        y = g.add("Clip", y, min=-0.5, max=0.75)
        y = g.add("Dropout", y, ratio=0.3)
        return [g.add("Softmax", g.add("Unsqueeze", g.add("Squeeze", y, axes=[0]), axes=[0]))]

    @case(1, 6, 4, 4)
    def channel_shuffle(g):
        y = g.add("Reshape", "x", g.value(np.array([1, 2, 3, 4, 4])))
        y = g.add("Transpose", y, perm=[0, 2, 1, 3, 4])
        return [g.add("Reshape", y, g.value(np.array([1, 6, 4, 4])))]

    @case(1, 16, 4, 4)
    def attention(g):
        y = g.add("Reshape", "x", g.value(np.array([1, 16, 16])))
        q = g.add("Add", g.add("MatMul", y, g.constant(16, 16)), g.constant(16))
        q = g.add("Reshape", q, g.value(np.array([1, 16, 4, 4])))
        q = g.add("Transpose", q, perm=[0, 2, 1, 3])
        k = g.add("Transpose", q, perm=[0, 1, 3, 2])
        scores = g.add("Mul", g.add("MatMul", q, k), g.value(np.float32(0.5)))
        return [g.add("MatMul", g.add("Softmax", scores, axis=-1), q)]

    @case(1, 8)
    def gemm_forms(g):
        y = g.add("Gemm", "x", g.constant(6, 8), g.constant(1, 6), transB=1)
        y = g.add("Add", g.add("MatMul", g.add("Tanh", y), g.constant(6, 4)), g.constant(4))
        y = g.add("Gemm", y, y, g.constant(1), transA=1)
        return [g.add("Gemm", y, g.constant(4, 3), g.constant(4, 3))]

    @case(1, 3, 8, 8)
    def outputs_without_layers(g):
        return [g.add("Identity", "x"), g.add("Identity", g.constant(2, 2)),
                g.add("Identity", g.add("Dropout", g.add("Relu", "x")))]

    @case(1, 4, 7, 7)
    def pools(g):
        ceil = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}
        return [g.add("MaxPool", "x", **ceil),
                g.add("AveragePool", "x", **ceil),
                g.add("AveragePool", "x", count_include_pad=1, **(ceil | {"ceil_mode": 0})),
                g.add("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
                g.add("MaxPool", "x", kernel_shape=[3, 3], dilations=[2, 2]),
                g.add("ReduceMean", "x", axes=[-1, -2], keepdims=0)]

    for name, (dims, options, build) in cases.items():
        graph = Graph(*dims, **options)
        outputs = build(graph)
        graph.save(path, *outputs)
        yield name, path, {"x": graph.rng.standard_normal(dims).astype(np.float32)}


def main():
    convert, wanted = sys.argv[1], (sys.argv[2:] or [""])[0]
    counts = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for cases in (own_cases, network_cases, operator_cases):
            for case, path, feeds in cases(folder):
                if wanted not in case:
                    continue
                verdict, reason = compare(case, convert, path, feeds, folder)
                counts[cases.__name__, verdict] = counts.get((cases.__name__, verdict), 0) + 1
                if verdict != "ok":
                    print(f"{verdict:8} {case}: {reason}")
    print(counts)
    sys.exit(any(verdict == "BAD" for _, verdict in counts))


if __name__ == "__main__":
    main()
