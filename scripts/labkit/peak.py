"""`scripts/lab peak`: the memory that a worker takes at most, for YOLOv2's first sixteen layers in a grid of 3x3 of floats:
what DeepThings (TCAD 2018) runs on devices of little memory.
"""

import json
from dataclasses import replace

from . import bench, cells, host, run, speed
from .host import LabError
from .swarm import Swarm
from .validate import RESULTS, machine

LAYERS, CONVOLUTIONS = 16, 12
DEVICES = (3, 6)
FRAMES = 6
PATIENCE_S = 150
AIM_BYTES = 64e6
# What workers are told that maps and weights may take. Exact numerics keep weights as they are; transformed ones
# do not fit, and those workers are told nothing.
CASES = (("exact", 48), ("fast", None))


def first_layers():
    """YOLOv2 up to its sixteenth layer."""
    def last(nodes):
        convolutions = [i for i, node in enumerate(nodes) if node.op_type == "Conv"]
        return nodes[convolutions[CONVOLUTIONS] - 1]
    return bench.first_part("yolov2", "yolov2-first-16", last)


def measure(devices, numerics, memory_mb):
    """The most that each worker took, and what each frame moved."""
    cell = cells.cell(f"yolov2-first-16-{devices}-{numerics}", str(first_layers()), [bench.SHARE] * devices, "100m",
                      "deepthings", frames=FRAMES, grid=(3, 3), fused_layers=LAYERS)
    scenario = cell.scenario
    if memory_mb:
        scenario = replace(scenario, workers=[replace(w, memory_mb=memory_mb) for w in scenario.workers])
    dilation, places = run.prepare(scenario, cell.dilation, list(cell.shares))
    with Swarm(scenario, places, dilation, speed.core()) as swarm:
        words = run.arguments(scenario, 0, dilation) + ["--numerics", numerics]
        outcome = swarm.run(words, set(), lambda *_: None, PATIENCE_S)
    peaks = [worker["peak_bytes"] for worker in outcome.workers]
    return {"devices": devices, "numerics": numerics, "memory_mb": memory_mb, "peak_bytes": peaks,
            "moved_bytes": outcome.report["moved_bytes"]}


def page(rows, where):
    """The result as Markdown."""
    lines = [
        "# Peak memory of a worker", "",
        f"{where['date']}, {where['processor']}, kernel {where['kernel']}, commit {where['commit']}, "
        f"`{where['command']}`. Made by `scripts/lab peak`; raw data in `peak.json`.", "",
        f"The first {LAYERS} layers of YOLOv2 at 608x608 as one fused group in a grid of 3x3, maps and weights of f32, "
        f"{FRAMES} frames one after another on emulated devices of one thread. Peak is VmHWM of the worker's process, the "
        "10 MB of the program's own pages included. A worker with less than 512 MB (`--memory-mb`) gives back what it "
        "frees. Exact numerics keep weights as they are (13 MB), fast ones transform them for Winograd.", "",
        "| devices | numerics | told | peak of each worker, MB |", "|---|---|---|---|"]
    for r in rows:
        told = f"`--memory-mb {r['memory_mb']}`" if r["memory_mb"] else f"{cells.MEMORY_MB} MB"
        peaks = ", ".join(f"{peak / 1e6:.1f}" for peak in r["peak_bytes"])
        lines.append(f"| {r['devices']} | {r['numerics']} | {told} | {peaks} |")
    return "\n".join(lines) + "\n"


def command(_options):
    """Carries out `scripts/lab peak`."""
    host.check()
    rows = [measure(devices, *case) for devices in DEVICES for case in CASES]
    where = machine()
    (RESULTS / "peak.json").write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")
    (RESULTS / "peak.md").write_text(page(rows, where))
    print(page(rows, where))
    most = max(peak for r in rows if r["memory_mb"] for peak in r["peak_bytes"])
    if most >= AIM_BYTES:
        raise LabError(f"a worker took {most / 1e6:.1f} MB where {AIM_BYTES / 1e6:.0f} are the aim")
