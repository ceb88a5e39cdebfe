"""A foreign engine as a process that takes commands, one a line, and answers each with a line of
JSON. The commands are those of kernels/examples/bench_engine/serve.rs.

Each engine is measured at its best: the graph as it optimises it, input and output where they need
no copying, and threads that spin inside a call. Between calls none may spin, for then another
engine has its turn.

usage: serve.py onnxruntime | ncnn | openvino
"""

import json
import pathlib
import sys
import time

import numpy as np

CALLS_MAX = 20_000


def input_values(dims: list[int]) -> np.ndarray:
    """The input that every engine gets: values from 0 to 1."""
    places = np.arange(int(np.prod(dims)), dtype=np.int64)
    return (places * 104_729 % 1000 / 1000).astype(np.float32).reshape(dims)


class OnnxRuntime:
    def __init__(self, path: str, threads: int):
        import onnxruntime as ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (taken,) = self.session.get_inputs()
        self.input = ort.OrtValue.ortvalue_from_numpy(input_values(taken.shape))
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input(taken.name, self.input)
        for given in self.session.get_outputs():
            self.binding.bind_output(given.name, "cpu")

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def output(self) -> np.ndarray:
        self.run()
        return self.binding.copy_outputs_to_cpu()[0]


class Ncnn:
    """Reads what pnnx made of the ONNX file."""

    def __init__(self, path: str, threads: int):
        import ncnn
        stem = path.removesuffix(".onnx")
        refused = pathlib.Path(stem + ".ncnn.refused")
        if refused.exists():
            raise ValueError(refused.read_text().strip())
        self.net = ncnn.Net()
        options = self.net.opt
        options.num_threads = threads
        for half in ["fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"]:
            setattr(options, f"use_{half}", False)
        options.openmp_blocktime = 0
        if self.net.load_param(stem + ".ncnn.param") or self.net.load_model(stem + ".ncnn.bin"):
            raise ValueError("ncnn cannot load what pnnx made")
        dims = json.loads(pathlib.Path(stem + ".ncnn.dims").read_text())
        # The array is kept, since the Mat only looks at it.
        self.values = input_values(dims[1:] if len(dims) == 4 else dims)
        self.input = ncnn.Mat(self.values)
        self.taken, self.given = self.net.input_names()[0], self.net.output_names()[0]

    def answer(self):
        extractor = self.net.create_extractor()
        extractor.input(self.taken, self.input)
        code, answer = extractor.extract(self.given)
        if code:
            raise ValueError(f"ncnn: extract gives {code}")
        return answer

    def run(self) -> None:
        self.answer()

    def output(self) -> np.ndarray:
        return np.array(self.answer())


class OpenVino:
    def __init__(self, path: str, threads: int):
        import openvino as ov
        self.core = ov.Core()
        model = self.core.compile_model(path, "CPU", {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": "1",
        })
        self.request = model.create_infer_request()
        self.values = input_values(list(model.input(0).shape))
        self.request.set_input_tensor(0, ov.Tensor(self.values, shared_memory=True))
        # The wrapper's infer() would make a dictionary of the outputs each time.
        self.infer = lambda: super(ov.InferRequest, self.request).infer(
            {}, share_outputs=True, decode_strings=False)

    def run(self) -> None:
        self.infer()

    def output(self) -> np.ndarray:
        self.run()
        return self.request.get_output_tensor(0).data.copy()


ENGINES = {"onnxruntime": OnnxRuntime, "ncnn": Ncnn, "openvino": OpenVino}


def timed(run, seconds: float, calls: int) -> list[int]:
    clock, taken, began = time.perf_counter_ns, [], time.perf_counter_ns()
    while len(taken) < calls or (clock() - began < seconds * 1e9 and len(taken) < CALLS_MAX):
        start = clock()
        run()
        taken.append(clock() - start)
    return taken


def main() -> None:
    engine, loaded = ENGINES[sys.argv[1]], None
    # What a library prints must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    # What a first load would spend on reading the library is not the model's.
    __import__(sys.argv[1])
    for line in sys.stdin:
        words = line.rstrip("\n").split("\t")
        try:
            match words:
                case ["load", path, threads]:
                    loaded = None
                    start = time.perf_counter_ns()
                    loaded = engine(path, int(threads))
                    answer = {"ok": True, "ns": time.perf_counter_ns() - start}
                case ["unload"]:
                    loaded, answer = None, {"ok": True}
                case ["run", seconds, calls]:
                    answer = {"ns": timed(loaded.run, float(seconds), int(calls))}
                case ["output", path]:
                    values = np.ascontiguousarray(loaded.output(), dtype=np.float32)
                    values.tofile(path)
                    answer = {"values": values.size}
                case _:
                    raise ValueError(f"unknown command {words}")
        except Exception as bad:
            told = str(bad).strip().splitlines()
            answer = {"refused": told[0] if told else type(bad).__name__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
