"""Measures Tilehive beside other engines, in turns on one machine.

Each engine is a process that stays loaded, pinned to the cores it may use. For each model the
engines take turns in short slices, in an order that is rotated each round; only one computes at a
time. Numbers are medians over all calls, batch 1, with the input in the engine's own format.

examples:
  scripts/bench-engines                                  everything, into docs/results/
  scripts/bench-engines --quick                          some of it, in three minutes
  scripts/bench-engines --only resnet,mobilenet --threads 1
  scripts/bench-engines --only "3x3 512",tiles --engines tilehive,ncnn --rounds 12
  scripts/bench-engines --only networks --numerics exact,fast --out /tmp/bench

--only takes parts of the names of models, and the names of whole groups: networks, int8, layers,
tiles, memory, start.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import engines
import models
from engines import (PEERS, RUST_PEERS, TILEHIVE, TILEHIVE_FAST, TILEHIVE_LAYERS, Process,
                     Refused)
from models import ROOT, Model

GROUPS = ["networks", "int8", "layers", "tiles", "memory", "start"]
# Threads that still spin after a call must have given up before another engine's turn.
PAUSE_S = 0.03
GRID = 3


@dataclasses.dataclass(frozen=True)
class Pace:
    rounds: int
    network_slice_s: float
    layer_slice_s: float
    starts: int

    def slice_s(self, kind: str) -> float:
        return self.layer_slice_s if kind == "layers" else self.network_slice_s


FULL = Pace(rounds=7, network_slice_s=0.3, layer_slice_s=0.1, starts=5)
QUICK = Pace(rounds=3, network_slice_s=0.15, layer_slice_s=0.05, starts=2)


def spread(samples: list[int]) -> dict:
    """Median, quartiles and least of some times."""
    q1, median, q3 = (statistics.quantiles(samples, n=4) if len(samples) > 1 else samples * 3)
    return {"median": round(median), "q1": round(q1), "q3": round(q3), "min": min(samples),
            "calls": len(samples)}


class Bench:
    """A run: what was asked for, and the processes."""

    def __init__(self, asked, pace: Pace, binaries: dict, folder: models.Folder):
        self.asked, self.pace, self.binaries, self.folder = asked, pace, binaries, folder
        self.engines = asked.engines
        self.processes: dict[tuple[str, int], Process] = {}
        self.turn = 0

    def process(self, engine: str, threads: int) -> Process:
        found = self.processes.get((engine, threads))
        if found is None or not found.is_alive:
            found = Process(engine, list(range(threads)), self.binaries)
            self.processes[engine, threads] = found
        return found

    def close(self) -> None:
        for process in self.processes.values():
            process.close()
        self.processes.clear()

    def row(self, model: Model, threads: int) -> dict:
        """All engines on one model, in turns."""
        path = self.folder.path(model)
        row = {"model": model.name, "kind": model.kind, "threads": threads, "engines": {}}
        samples: dict[str, list[int]] = {}
        others: dict[str, list[float]] = {}
        rounds: dict[str, list[int]] = {}
        for engine in self.engines:
            process = self.process(engine, threads)
            try:
                loaded = process.ask("load", path, threads)
                # The first call may allocate, and says how long a slice must be.
                first_ns = process.ask("run", 0, 2)["ns"][-1]
            except Refused as refused:
                row["engines"][engine] = {"refused": str(refused)}
                continue
            if "multiply_adds" in loaded:
                row["multiply_adds"] = loaded["multiply_adds"]
            samples[engine], others[engine], rounds[engine] = [], [], []
            row["engines"][engine] = {"load_ns": loaded["ns"], "first_ns": first_ns}
        self.compare_outputs(row, list(samples), threads)
        slice_s, cores = self.pace.slice_s(model.kind), list(range(threads))
        for _ in range(self.pace.rounds):
            order = [engine for engine in self.engines if engine in samples]
            self.turn += 1
            order = order[self.turn % len(order):] + order[:self.turn % len(order)] if order else []
            for engine in order:
                time.sleep(PAUSE_S)
                process = self.process(engine, threads)
                if row["engines"][engine]["first_ns"] < 1e8:
                    # Another engine has had the caches in between.
                    process.ask("run", 0, 1)
                before = time.monotonic(), process.cpu_s(), engines.cores_busy_s(cores)
                ns = process.ask("run", slice_s, 2)["ns"]
                wall, own, busy = (after - then for after, then in zip(
                    (time.monotonic(), process.cpu_s(), engines.cores_busy_s(cores)), before))
                samples[engine] += ns
                rounds[engine].append(round(statistics.median(ns)))
                others[engine].append((wall, max(0.0, busy - own)))
        for engine, ns in samples.items():
            walls, foreign = (sum(column) for column in zip(*others[engine]))
            row["engines"][engine] |= {"ns": spread(ns), "rounds_ns": rounds[engine],
                                       "others_share": round(foreign / walls / threads, 3)}
            self.process(engine, threads).ask("unload")
        return row

    def compare_outputs(self, row: dict, running: list[str], threads: int) -> None:
        """The largest difference of each engine's first output from ONNX Runtime's (or else the
        first engine's), relative to the largest value."""
        import numpy as np
        outputs = {}
        for engine in running:
            with tempfile.NamedTemporaryFile(prefix="bench-output-") as file:
                self.process(engine, threads).ask("output", file.name)
                outputs[engine] = np.fromfile(file.name, dtype=np.float32).astype(np.float64)
        if not outputs:
            return
        reference = "onnxruntime" if "onnxruntime" in outputs else next(iter(outputs))
        want = outputs[reference]
        for engine, got in outputs.items():
            error = float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)) \
                if got.size == want.size else float("inf")
            row["engines"][engine]["error"] = error if np.isfinite(error) else "another shape"
        row["compared_with"] = reference

    def tiles(self, model: Model, threads: int, engine: str) -> dict:
        """The layer as a grid of tiles beside the whole, in Tilehive."""
        process = self.process(engine, threads)
        row = {"model": model.name, "threads": threads, "engine": engine, "grid": [GRID, GRID]}
        try:
            process.ask("load", self.folder.path(model), threads)
            answer = process.ask("tiles", GRID, GRID, self.pace.network_slice_s * self.pace.rounds)
        except Refused as refused:
            return row | {"refused": str(refused)}
        work = answer["tiles_multiply_adds"] / answer["whole_multiply_adds"]
        whole, tiles, together = (
            spread(answer[f"{key}_ns"]) for key in ("whole", "tiles", "together"))
        ratio = tiles["median"] / whole["median"] / work
        ratio_together = together["median"] / whole["median"] / work
        process.ask("unload")
        return row | {"whole_ns": whole, "tiles_ns": tiles, "together_ns": together, "work": work,
                      "time_per_multiply_add": ratio,
                      "together_per_multiply_add": ratio_together}

    def memory(self, model: Model, engine: str) -> dict:
        """The peak of a fresh process that loads a model and runs it once."""
        row = {"model": model.name, "engine": engine, "threads": 1}
        process = Process(engine, [0], self.binaries)
        try:
            with_nothing = self.folder.path(models.NOTHING)
            process.ask("load", with_nothing, 1)
            process.ask("run", 0, 1)
            process.ask("unload")
            idle = process.peak_bytes()
            loaded = process.ask("load", self.folder.path(model), 1)
            # The first call touches new memory; the second is like all that follow.
            ns = process.ask("run", 0, 4)["ns"][1:]
            told = ("arena_bytes", "tile_arena_bytes", "packed_bytes")
            arena = {key: loaded[key] for key in told if key in loaded}
            return row | arena | {"peak_bytes": process.peak_bytes(), "idle_bytes": idle,
                                  "ns": spread(ns)}
        except Refused as refused:
            return row | {"refused": str(refused)}
        finally:
            process.close()

    def start(self, model: Model, chosen: list[str]) -> list[dict]:
        """From the file to the first answer, in fresh processes whose library is loaded."""
        path, taken = self.folder.path(model), {engine: [] for engine in chosen}
        refusals = {}
        for _ in range(self.pace.starts):
            for engine in chosen:
                process = Process(engine, [0], self.binaries)
                try:
                    ns = process.ask("load", path, 1)["ns"] + process.ask("run", 0, 1)["ns"][0]
                    taken[engine].append(ns)
                except Refused as refused:
                    refusals[engine] = str(refused)
                finally:
                    process.close()
        return [{"model": model.name, "engine": engine, "threads": 1}
                | ({"ns": spread(taken[engine])} if taken[engine]
                   else {"refused": refusals[engine]}) for engine in chosen]


def said(command: list) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True,
                              cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict:
    cpu = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        cpu.setdefault(name.strip(), value.strip())
    known = "avx2 fma avx512f avx512_vnni avx_vnni avx512_bf16 amx_bf16 amx_int8 asimd asimddp i8mm"
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {"cpu": cpu.get("model name", "unknown"), "cores": os.cpu_count(),
            "flags": [flag for flag in known.split() if flag in flags],
            "virtual": "hypervisor" in flags, "kernel": os.uname().release,
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}


def versions(peers: bool) -> dict:
    import importlib.metadata
    found = {name: importlib.metadata.version(name) for name in [*PEERS, "pnnx"]}
    found["tilehive"] = said(["git", "describe", "--always", "--dirty"])
    found["rustc"] = said(["rustc", "--version"])
    if peers:
        import tomllib
        lock = tomllib.loads((models.HERE / "peers/Cargo.lock").read_text())
        found |= {package["name"].removesuffix("-onnx"): package["version"]
                  for package in lock["package"] if package["name"] in ("rten", "tract-onnx")}
    return found


def listed(known: list[str] | None = None, kind=str):
    def parse(text: str) -> list:
        values = [kind(part.strip()) for part in text.split(",") if part.strip()]
        strange = [value for value in values if known and value not in known]
        if strange or not values:
            raise argparse.ArgumentTypeError(f"{strange or text!r}; known: {', '.join(known or [])}")
        return values
    return parse


def arguments() -> argparse.Namespace:
    head, _, tail = __doc__.partition("\nexamples:")
    parser = argparse.ArgumentParser(
        prog="scripts/bench-engines", description=head, epilog="examples:" + tail,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [TILEHIVE, *PEERS, *RUST_PEERS]
    parser.add_argument("--quick", action="store_true", help="few models, few rounds")
    parser.add_argument("--only", type=listed(), default=[], metavar="NAME[,NAME]",
                        help="only models whose name contains this, or a group")
    parser.add_argument("--engines", type=listed(known), default=known, metavar="A[,B]",
                        help=f"of {', '.join(known)}")
    parser.add_argument("--threads", type=listed(kind=int), metavar="N[,N]",
                        help="1 and 2 unless given")
    parser.add_argument("--rounds", type=int, help=f"{FULL.rounds} unless given")
    parser.add_argument("--numerics", type=listed(["exact", "fast"]), default=["fast", "exact"],
                        metavar="exact|fast", help="how Tilehive may order sums; both unless given")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        help="docs/results for a whole run, target/bench/results otherwise")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.threads = asked.threads or [n for n in (1, 2) if n <= (os.cpu_count() or 1)]
    if asked.rounds is not None and asked.rounds < 1:
        parser.error("--rounds: at least 1")
    if min(asked.threads) < 1 or max(asked.threads) > (os.cpu_count() or 1):
        parser.error(f"--threads: 1 to {os.cpu_count()} on this machine")
    tilehives = [{"exact": TILEHIVE, "fast": TILEHIVE_FAST}[n] for n in asked.numerics]
    asked.engines = [name for engine in asked.engines
                     for name in (tilehives if engine == TILEHIVE else [engine])]
    return asked


def wanted(asked, group: str, name: str) -> bool:
    def matches(part: str) -> bool:
        part = part.lower()
        return part == group if part in GROUPS else \
            part in name.lower() and group in ("networks", "int8", "layers")
    return not asked.only or any(matches(part) for part in asked.only)


def main() -> None:
    asked = arguments()
    if asked.check:
        return
    pace = QUICK if asked.quick else FULL
    pace = dataclasses.replace(pace, rounds=asked.rounds) if asked.rounds else pace
    # What scripts/bench-engines built.
    target = pathlib.Path(os.environ["BENCH_TARGET"])
    work = target / "bench"
    is_whole = not (asked.quick or asked.only or asked.rounds) and len(asked.engines) >= 6
    out = asked.out or (ROOT / "docs/results" if is_whole else work / "results")
    out.mkdir(parents=True, exist_ok=True)
    binaries = {"bench_engine": target / "release/examples/bench_engine"}
    binaries |= {f"peer_{name}": work / f"peers/release/peer_{name}" for name in RUST_PEERS}
    layers = models.layers(binaries["bench_engine"])
    known = [*models.NETWORKS, *models.INT8, *layers, *models.LARGE]
    by_name = {model.name: model for model in known}
    folder = models.Folder(work / "models", binaries["bench_engine"], known)
    bench = Bench(asked, pace, binaries, folder)
    began = time.monotonic()
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["scripts/bench-engines", *sys.argv[1:]]),
        "machine": machine(),
        "versions": versions(any(e in asked.engines for e in RUST_PEERS)),
        "pace": dataclasses.asdict(pace),
        "load_average_before": os.getloadavg()[0],
        "engines": asked.engines,
        "rows": [], "tiles": [], "memory": [], "start": [],
    }

    def peak() -> dict:
        return json.loads(said(["taskset", "--cpu-list", "0", binaries["bench_engine"], "peak"]))

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", file=sys.stderr, flush=True)

    peaks = [peak()]
    jobs = [model for model in [*models.NETWORKS, *models.INT8, *layers]
            if wanted(asked, model.kind, model.name) and (model.quick or not asked.quick)]
    for model in jobs:
        folder.path(model)
    for model in jobs:
        for threads in asked.threads:
            tell(f"{model.name}, {threads} thread{'s' * (threads > 1)}")
            result["rows"].append(bench.row(model, threads))
        peaks.append(peak()) if model.kind == "networks" else None
    own = [engine for engine in asked.engines if engine.startswith(TILEHIVE)]
    if wanted(asked, "tiles", ""):
        for name in models.TILED_LAYERS:
            for threads in asked.threads:
                tell(f"tiles of {name}, {threads} thread{'s' * (threads > 1)}")
                result["tiles"] += [bench.tiles(by_name[name], threads, engine) for engine in own]
    bench.close()
    if wanted(asked, "memory", ""):
        for model in models.NETWORKS[:1] if asked.quick else models.LARGE:
            tell(f"memory, {model.name}")
            layers = [TILEHIVE_LAYERS] if own else []
            chosen = [engine for engine in asked.engines if engine not in RUST_PEERS] + layers
            result["memory"] += [bench.memory(model, engine) for engine in chosen]
    if wanted(asked, "start", ""):
        for name in ["ResNet-50"] if asked.quick else ["ResNet-50", "MobileNetV2"]:
            tell(f"start, {name}")
            result["start"] += bench.start(by_name[name], asked.engines)
    peaks.append(peak())
    result["peak_gflop_per_s"] = max(p["gflop_per_s"] for p in peaks)
    result["peaks_gflop_per_s"] = [p["gflop_per_s"] for p in peaks]
    result["isa"] = peaks[0]["isa"]
    result["seconds"] = round(time.monotonic() - began)

    import report
    (out / "engines.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report.markdown(result)
    (out / "engines.md").write_text(text)
    report.plot(result, out / "engines.png")
    print(text)
    tell(f"wrote engines.json, engines.md and engines.png in {out}")


if __name__ == "__main__":
    main()
