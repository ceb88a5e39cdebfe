"""Runs the ONNX backend test cases through the `tilehive` binary, one process a case.

Cases: the node cases of `onnx.backend.test` and its models converted from PyTorch, as far as all
their operators are ones that Tilehive claims. Each runs embedded (no workers) with --check, .npz in
and out, and is compared with the case's own tolerance.

A case is handed over as exporters write models, which differs from the published case so:

* Every input but the first becomes an initializer (Reshape's shape, Pad's pads, Resize's scales,
  Clip's bounds, the weights of Conv and BatchNormalization, ...): Tilehive reads such things from
  the file. Operators that join maps (Add, Concat, MatMul, ...) keep all their inputs; where that is
  refused they run again with the later ones as initializers, which the table counts as `constants`.
* Where a batch is refused, as spatial operators do, its items run as a stream of frames, which is
  what the refusal's hint asks for; the table counts this as `frames`.
* A model without data inputs (Constant, ConstantOfShape) gets one: zeros that are added to it.
* An output without dims may have the one dim [1].
* The converted models have operator set 6, which Tilehive refuses: onnx's own version converter
  brings them to 9.

A case passes, fails, or is not supported. Not supported is only a clean refusal: exit code 2 and a
message that names the operator or what about the model is refused. Everything else fails: wrong
values, a difference from one device, a crash, a panic, a timeout. A case that ONNX Runtime does not
pass either (DISPUTED) counts as not supported while our answer is ONNX Runtime's, else it fails.

The operators are those of `tilehive model operators`; of those that only compute with constants just
Constant and ConstantOfShape have cases that can be run. With --docs their list, with the counts, becomes
docs/operators.md.

usage: conformance.py [--binary PATH] [--filter TEXT] [--threads N] [--docs] [-v]
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import importlib
import json
import os
import pathlib
import pkgutil
import sys
import tempfile
import time
import warnings

import numpy as np
import onnx
import onnx.backend.test.case.node as node_cases
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.backend.test.loader import DATA_DIR, load_model_tests

from binary import ROOT, Tilehive, default_path, reason, table

# Operators whose inputs may all be maps.
JOINS = {"Add", "Concat", "Div", "Gemm", "MatMul", "Max", "Min", "Mul", "PRelu", "Sub", "Sum"}
CONVERTED = ("pytorch-converted", "pytorch-operator")
# Cases that ONNX Runtime does not pass either, and why.
DISPUTED = {
    "test_resize_downsample_scales_linear_align_corners":
        "(Resize): align_corners: the case takes a length that is no integer for length_resized",
}
TIMEOUT_S = 30


@dataclasses.dataclass
class Case:
    """A published case: a model, what goes in and what must come out."""

    name: str
    model: onnx.ModelProto
    inputs: list
    outputs: list
    rtol: float
    atol: float

    def is_half(self) -> bool:
        """Whether anything in it has half precision."""
        names = {getattr(array, "dtype", np.dtype("O")).name for array in [*self.inputs, *self.outputs]}
        return bool(names & {"float16", "bfloat16"})

    @property
    def operator(self) -> str:
        """The operator that the case is about; of a converted network the first with weights."""
        operators = [node.op_type for node in self.model.graph.node]
        weighty = [o for o in operators if o in ("Conv", "Gemm", "MatMul", "BatchNormalization")]
        return (weighty or [o for o in operators if o != "Constant"] or operators)[0]


@dataclasses.dataclass
class Variant:
    """A case as it is handed over."""

    how: str
    model: onnx.ModelProto
    frames: list
    outputs: list


@dataclasses.dataclass
class Verdict:
    """`passed`, `failed` or `not supported`, in which way, and why not."""

    kind: str
    how: str = ""
    why: str = ""


def claimed(tilehive: Tilehive) -> list[dict]:
    """The operators that a file may use, as the binary lists them."""
    ended = tilehive("model", "operators", "--json", timeout_s=TIMEOUT_S)
    if ended.code != 0:
        sys.exit(f"error: model operators: {ended.error}")
    return json.loads(ended.stdout)


def collect(operators: set[str]) -> list[Case]:
    """The cases of which every node is one of some operators."""
    # Only the modules of these operators: generating the others takes half a minute.
    wanted = {operator.lower() for operator in operators}
    for _, name, _ in pkgutil.iter_modules(node_cases.__path__):
        if name.replace("_", "") in wanted:
            importlib.import_module(f"{node_cases.__name__}.{name}")
    cases = []
    for case in node_cases._NodeTestCases:
        inputs, outputs = case.data_sets[0]
        cases.append(Case(case.name, case.model, list(inputs), list(outputs), case.rtol, case.atol))
    for kind in CONVERTED:
        for case in load_model_tests(DATA_DIR, kind=kind):
            folder = pathlib.Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            if model.opset_import[0].version < 7:
                model = version_converter.convert_version(model, 9)
                # From then on an initializer need not be an input as well.
                model.ir_version = 8
            arrays = [[numpy_helper.to_array(onnx.load_tensor(path)) for path in paths]
                      for paths in (tensors(folder, "input"), tensors(folder, "output"))]
            name = f"{kind}/{case.name}"
            cases.append(Case(name, model, *arrays, case.rtol, case.atol))
    cases = [c for c in cases if all(n.op_type in operators for n in c.model.graph.node)]
    return sorted(cases, key=lambda case: (case.operator, case.name))


def tensors(folder: pathlib.Path, what: str) -> list[pathlib.Path]:
    """The tensors of a case's first data set, in order."""
    paths = (folder / "test_data_set_0").glob(f"{what}_*.pb")
    return sorted(paths, key=lambda path: int(path.stem.rpartition("_")[2]))


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def open_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs without a value in the file; old files list initializers as inputs too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def constant(array, name: str) -> onnx.TensorProto:
    """An initializer; types that numpy lacks are tensors already."""
    if not isinstance(array, onnx.TensorProto):
        return numpy_helper.from_array(np.asarray(array), name)
    tensor = onnx.TensorProto()
    tensor.CopyFrom(array)
    tensor.name = name
    return tensor


def with_constants(case: Case, kept: int) -> Variant:
    """The case with all inputs but the first few as initializers."""
    model, feeds = copy(case.model), {}
    for index, (value, array) in enumerate(zip(open_inputs(model), case.inputs)):
        if index < kept:
            feeds[value.name] = array
        else:
            model.graph.initializer.append(constant(array, value.name))
            model.graph.input.remove(value)
    how = "constants" if len(case.inputs) > kept else ""
    return Variant(how, model, [feeds], case.outputs)


def with_zeros(case: Case) -> Variant:
    """A case without data inputs, as an addition to zeros."""
    variant = with_constants(case, 0)
    graph, (expected,) = variant.model.graph, case.outputs
    floats, result = f"{graph.output[0].name}_f32", f"{graph.output[0].name}_sum"
    graph.node.append(helper.make_node("Cast", [graph.output[0].name], [floats],
                                       to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("Add", ["zeros", floats], [result]))
    info = helper.make_tensor_value_info
    graph.input.append(info("zeros", TensorProto.FLOAT, expected.shape))
    del graph.output[:]
    graph.output.append(info(result, TensorProto.FLOAT, expected.shape))
    feeds = {"zeros": np.zeros(expected.shape, np.float32)}
    return Variant("", variant.model, [feeds], [expected.astype(np.float32)])


def by_frames(variant: Variant) -> Variant | None:
    """The items of a batch as a stream of frames, where inputs and outputs share the batch."""
    arrays = [*variant.frames[0].values(), *variant.outputs]
    batches = {array.shape[0] if array.ndim else 0 for array in arrays}
    if len(batches) != 1 or batches <= {0, 1}:
        return None
    model = copy(variant.model)
    for value in [*open_inputs(model), *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    # What a checker wrote about maps between the layers holds for the batch only.
    del model.graph.value_info[:]
    (batch,) = batches
    frames = [{k: v[i:i + 1] for k, v in variant.frames[0].items()} for i in range(batch)]
    return Variant("frames", model, frames, variant.outputs)


def run(tilehive: Tilehive, case: Case, variant: Variant, folder: pathlib.Path) -> Verdict:
    """Runs a case in one way."""
    folder.mkdir(parents=True)
    onnx.save(variant.model, folder / "model.onnx")
    paths = [folder / f"{index:03}.npz" for index in range(len(variant.frames))]
    for path, feeds in zip(paths, variant.frames):
        # A refusal of another element type is to come from the model, not from the array file.
        np.savez(path, **{k: np.array(v, np.float32, order="C") for k, v in feeds.items()})
    ended = tilehive("run", folder / "model.onnx", *paths, "-o", folder / "out", "--format", "npz",
                     "--threads", 1, "--check", timeout_s=TIMEOUT_S)
    if ended.code == 2 and is_named(ended.error, variant.model):
        hint = " (batch)" if "hint: batch" in ended.stderr else ""
        return Verdict("not supported", variant.how, reason(ended.error) + hint)
    if ended.code != 0:
        return Verdict("failed", variant.how, f"exit {ended.code}: {ended.error}")
    answers = [np.load(folder / "out" / path.name) for path in paths]
    for value, expected in zip(variant.model.graph.output, variant.outputs):
        if value.name not in answers[0]:
            return Verdict("failed", variant.how, f"no output `{value.name}`")
        got = np.concatenate([answer[value.name] for answer in answers])
        problem = difference(got, expected, case)
        if problem and case.name in DISPUTED:
            problem = difference(got, onnx_runtime(case), case)
            if not problem:
                return Verdict("not supported", "", f"{DISPUTED[case.name]}; as ONNX Runtime")
        if problem:
            return Verdict("failed", variant.how, f"output `{value.name}`: {problem}")
    return Verdict("passed", variant.how)


def onnx_runtime(case: Case) -> np.ndarray:
    """The first output of ONNX Runtime."""
    session = ort.InferenceSession(case.model.SerializeToString(),
                                   providers=["CPUExecutionProvider"])
    feeds = {i.name: array for i, array in zip(session.get_inputs(), case.inputs)}
    return session.run(None, feeds)[0]


def difference(got: np.ndarray, expected: np.ndarray, case: Case) -> str:
    """What is wrong with an output, if anything."""
    # Floats of every width are computed, and given back, as f32.
    if expected.dtype.name in ("float16", "bfloat16", "float64"):
        expected = expected.astype(np.float32)
        case = dataclasses.replace(case, rtol=max(case.rtol, 1e-2 if case.is_half() else 0))
    if expected.dtype != got.dtype:
        return f"{got.dtype}, the case has {expected.dtype} there"
    if expected.shape == () and got.shape == (1,):
        expected = expected.reshape(1)
    if got.shape != expected.shape:
        return f"dims {got.shape} for {expected.shape}"
    if not np.allclose(got, expected, case.rtol, case.atol, equal_nan=True):
        return f"up to {np.nanmax(np.abs(got - expected.astype(np.float64))):.3g} apart"
    return ""


def is_named(error: str, model: onnx.ModelProto) -> bool:
    """Whether a refusal says what it refuses: the operator, the operator set or the input."""
    names = [f"({node.op_type})" for node in model.graph.node]
    names += [f"operator {node.op_type} " for node in model.graph.node]
    names += [f'"{value.name}"' for value in [*model.graph.input, *model.graph.initializer]]
    return error.startswith("error: ") and any(n in error for n in [*names, "operator set "])


def judge(tilehive: Tilehive, case: Case, folder: pathlib.Path) -> Verdict:
    """Runs a case in the ways that it may be run, until one is not refused."""
    first = np.asarray(case.inputs[0]) if case.inputs else None
    if {node.op_type for node in case.model.graph.node} <= {"Constant", "ConstantOfShape"}:
        variants = [with_zeros(case)]
    elif first is None or first.dtype == object or len(open_inputs(case.model)) == 0:
        variants = [Variant("", case.model, [{}], case.outputs)]
    elif len(case.inputs) > 1 and case.operator in JOINS:
        variants = [with_constants(case, len(case.inputs)), with_constants(case, 1)]
    else:
        variants = [with_constants(case, 1)]
        variants[0].how = ""
    refusal = None
    for index, variant in enumerate(variants):
        verdict = run(tilehive, case, variant, folder / str(index))
        frames = by_frames(variant) if verdict.why.endswith("(batch)") else None
        if frames:
            verdict = run(tilehive, case, frames, folder / f"{index}-frames")
        if verdict.kind != "not supported":
            return verdict
        # What is refused of the form that asks for least.
        refusal = verdict
    return refusal


def as_array(value):
    """A tensor of floats, which some cases hold as a message, as an array."""
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    if isinstance(value, TensorProto) and value.data_type in floats:
        return numpy_helper.to_array(value)
    return value


def attempt(tilehive: Tilehive, case: Case, folder: pathlib.Path) -> Verdict:
    try:
        case = dataclasses.replace(case, inputs=[as_array(i) for i in case.inputs],
                                   outputs=[as_array(o) for o in case.outputs])
        return judge(tilehive, case, folder)
    except Exception as error:
        return Verdict("failed", "", f"this script: {type(error).__name__}: {error}")


def report(results: list[tuple[Case, Verdict]]) -> None:
    """The counts by operator, what failed, and what is not supported by reason."""
    kinds = ("passed", "failed", "not supported")
    counts = collections.defaultdict(collections.Counter)
    reasons = collections.defaultdict(list)
    for case, verdict in results:
        for row in (case.operator, "total"):
            counts[row][verdict.kind] += 1
            counts[row][verdict.how] += verdict.kind == "passed"
        if verdict.kind == "not supported":
            reasons[verdict.why].append(case.name.removeprefix("test_"))
    total = counts.pop("total")
    columns = (*kinds, "constants", "frames")
    rows = [[name, *(str(row[c] or "-") for c in columns)]
            for name, row in [*counts.items(), ("total", total)]]
    print(table(["operator", *kinds, "as constants", "as frames"], rows))
    print("\nnot supported:")
    for why, names in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        print(f"  {len(names):3}  {why}\n       {', '.join(names)}")
    failures = [(c, v) for c, v in results if v.kind == "failed"]
    for case, verdict in failures:
        print(f"FAILED {case.name} {verdict.how}: {verdict.why}")


def document(operators: list[dict], results: list[tuple[Case, Verdict]]) -> None:
    """Writes docs/operators.md."""
    counts = collections.defaultdict(collections.Counter)
    for case, verdict in results:
        counts[case.operator][verdict.kind] += 1
    lines = [
        "# Operators",
        "",
        "What an ONNX file may use. Written by `scripts/oracle/run --docs` from the table that the",
        "reader itself uses (`tilehive model operators`) and from the conformance cases of the `onnx`",
        f"package ({onnx.__version__}).",
        "",
        "- *Computed*: in tiles over several devices, or whole on one. `constants` means when the file is",
        "  read: shape arithmetic and weights that a file derives from others. Every operator but the",
        "  quantised ones is computed so where all its inputs are constants and the result is small.",
        "- *Versions*: the operator sets in which ONNX changed it, from 7 on, the oldest that is read.",
        "- *Cases*: passed / refused with a clear message; none fails. Most refusals are other types of",
        "  elements, batches (which run as a stream of frames) and inputs that must be constants.",
        "- Floats of 16 and 64 bits are read and computed as 32 bits.",
        "",
        "| operator | computed | versions | cases | restrictions |",
        "|---|---|---|---|---|",
    ]
    for operator in operators:
        name, domain = operator["name"], operator["domain"]
        versions = sorted({schema.since_version for schema in onnx.defs.get_all_schemas_with_history()
                           if schema.name == name and schema.domain == ""})
        # The one that holds in operator set 7 may be older.
        before = [v for v in versions if v <= 7][-1:]
        shown = ", ".join(str(v) for v in [*before, *(v for v in versions if v > 7)])
        count = counts[name]
        cases = f"{count['passed']} / {count['not supported']}" if count else ""
        computed = operator["sharing"].replace("constants only", "constants")
        label = name if domain == "ai.onnx" else f"{domain}::{name}"
        lines.append(f"| {label} | {computed} | {shown} | {cases} | {operator['restrictions']} |")
    (ROOT / "docs" / "operators.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, default=default_path())
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--threads", type=int, default=(os.cpu_count() or 1) + 1)
    parser.add_argument("--docs", action="store_true", help="write docs/operators.md")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every case")
    arguments = parser.parse_args()
    if not arguments.binary.is_file():
        sys.exit(f"error: there is no {arguments.binary}\nhint: use scripts/oracle/run")
    warnings.simplefilter("ignore")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tilehive-conformance-") as name:
        folder = pathlib.Path(name)
        tilehive = Tilehive(arguments.binary, folder / "state")
        operators = claimed(tilehive)
        runnable = {o["name"] for o in operators if o["sharing"] != "constants only"}
        cases = collect(runnable | {"Constant", "ConstantOfShape"})
        cases = [case for case in cases if arguments.filter in case.name]
        collected_s = time.monotonic() - began
        with concurrent.futures.ThreadPoolExecutor(arguments.threads) as pool:
            folders = [folder / str(index) for index in range(len(cases))]
            verdicts = pool.map(attempt, [tilehive] * len(cases), cases, folders)
            results = list(zip(cases, verdicts))
    if arguments.verbose:
        for case, verdict in results:
            print(f"{verdict.kind:13} {case.operator:18} {case.name} {verdict.how} {verdict.why}")
    report(results)
    if arguments.docs:
        document(operators, results)
    kinds = collections.Counter(verdict.kind for _, verdict in results)
    took_s = time.monotonic() - began
    print(f"\n{took_s:.0f} s, of which {collected_s:.0f} s to make the cases", file=sys.stderr)
    print(f"{kinds['passed']} passed, {kinds['failed']} failed, {kinds['not supported']} skipped",
          flush=True)
    sys.exit(1 if kinds["failed"] or not kinds["passed"] else 0)


if __name__ == "__main__":
    main()
