"""`scripts/lab bench`: what more devices bring, against one device of the same kind on the same link.

Rounds go over all rows again and again, so that a drift of the machine meets all alike.
"""

import json
import os
import subprocess
import sys
from statistics import median

from . import cells, host, plots, speed
from .files import Fault
from .validate import RESULTS, machine

ROUNDS = 1
FRAMES = 5
SHARE = 0.15
MIXED = (0.4, 0.2, 0.1)
# As much slower as a Raspberry Pi 3 B+ is than a Pi 4, to which the other share is about equal.
SLOW = 0.05
MODELS = {
    "vgg16-convolutions": ("vgg16-convolutions.onnx", None), "yolov2": ("zoo:yolov2", None),
    "yolov2-416": ("zoo:yolov2@416x416", None), "unet": ("zoo:unet", None),
    "resnet50": ("zoo:resnet50", None), "mobilenetv2": ("zoo:mobilenetv2", None),
    "superres": ("assets/superres-x2.onnx", (768, 1024)),
}
# ONNX Runtime on one core, unless it is slowed down with the rest of a device: times are divided by
# the share afterwards.
REFERENCE = """
import json, sys, time, numpy, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = {session.get_inputs()[0].name: numpy.load(sys.argv[2])}
times = []
for _ in range(7):
    begun = time.perf_counter(); session.run(None, x); times.append(time.perf_counter() - begun)
print(json.dumps(sorted(times[2:])[2] * 1e3))
"""


def model_of(name):
    """How the programs are told a model, and its input size."""
    model, size = MODELS[name]
    if model.endswith("convolutions.onnx"):
        return str(convolutions()), None
    return (str(host.ROOT / model) if model.startswith("assets/") else model), size


def convolutions():
    """VGG16 up to its last pool, as published speed-ups have it."""
    return first_part("vgg16", "vgg16-convolutions",
                      lambda nodes: [n for n in nodes if n.op_type == "MaxPool"][-1])


def first_part(model, name, last):
    """A model of the zoo up to a node, the one of its nodes that `last` chooses; cut out once, under this name."""
    path = host.own_folder() / f"{name}.onnx"
    if not path.is_file():
        import onnx
        whole = host.own_folder() / f"{model}.onnx"
        host.call(host.program("tilehive"), "model", "export", f"zoo:{model}", "-o", whole)
        graph = onnx.load(whole, load_external_data=False).graph
        end = last(graph.node).output[0]
        onnx.utils.extract_model(str(whole), str(path), [graph.input[0].name], [end])
        whole.unlink()
    return path


def row(model, devices, link, strategy="auto", shares=None, events=(), tag="", stream=False):
    """One row: what is measured in each round."""
    shares = shares or [SHARE] * devices
    mix = "mixed" if len(set(shares)) > 1 else f"{len(shares)}"
    name = "-".join(filter(None, [model, mix, link, strategy, "stream" if stream else "", tag]))
    told, size = model_of(model)
    more = {"frames": 12, "in_flight": 4, "warm": 4, "objective": "throughput"} if stream else {
        "frames": FRAMES}
    return cells.cell(name, told, shares, link, strategy, group=model, input_size=size,
                      faults=list(events), **more)


def single(model, link, share=SHARE):
    """One device, on the same link."""
    return row(model, 1, link, "local", [share], tag="" if share == SHARE else f"share{share}")


def rows(quick):
    """All rows, each with the one-device row that it is compared with: [(row, base)]."""
    def against(*arguments, base_share=SHARE, **more):
        return row(*arguments, **more), single(arguments[0], arguments[2], base_share)
    heavy = ["vgg16-convolutions", "unet", "yolov2-416"]
    light = ["resnet50", "mobilenetv2"]
    made = [against(m, n, "100m") for m in heavy for n in (2, 4)]
    made += [against(m, 8, "100m") for m in heavy[:1]]
    made += [against(m, n, "100m", shares=[SLOW] * n, base_share=SLOW, tag="slow")
             for m in heavy for n in (2, 4, 8)]
    made += [against(m, 4, "100m") for m in light]
    made += [against(m, 3, "100m", shares=MIXED, base_share=0.4) for m in heavy]
    made += [against("unet", 4, "100m", tag="killed", events=[Fault(2.1, "crash", 1)]),
             against("unet", 4, "100m", tag="throttled",
                     events=[Fault(2.1, "slow-down", 1, times=3)]),
             against("resnet50", 4, "100m", "replicate", stream=True)]
    made += [against("yolov2", 3, "100m"), against("unet", 4, "20m"),
             against("vgg16-convolutions", 4, "wifi"), against("yolov2-416", 4, "wifi")]
    made += [against(m, n, "1g") for m in heavy[:2] for n in (4, 8)]
    if quick:
        return made
    every = [*heavy, *light, "yolov2", "superres"]
    made += [against(m, n, "100m") for m in every for n in (2, 3, 4, 6, 8)]
    made += [against(m, n, link) for m in every for link in ("20m", "1g", "wifi") for n in (2, 4)]
    made += [against(m, 4, "100m", s) for m in heavy
             for s in ("deepthings", "modnn", "aofl", "coedge", "offload", "split")]
    made += [against(m, 4, "100m", s, stream=True) for m in heavy for s in ("replicate", "pico")]
    seen = {}
    for one, base in made:
        seen.setdefault(one.name, (one, base))
    return list(seen.values())


def reference_ms(model):
    """ONNX Runtime on one core of this machine."""
    from .swarm import model_input
    told, _ = model_of(model)
    path = told if told.endswith(".onnx") else host.own_folder() / f"{model}.onnx"
    if told.startswith("zoo:") and not path.is_file():
        host.call(host.program("tilehive"), "model", "export", told, "-o", path)
    data = model_input(single(model, "100m").scenario)
    core = max(os.sched_getaffinity(0))
    out = subprocess.run([sys.executable, "-c", REFERENCE, path, data], capture_output=True,
                         text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    if out.returncode != 0:
        raise host.LabError(f"ONNX Runtime failed: {out.stderr.strip().splitlines()[-1]}")
    if told.startswith("zoo:"):
        path.unlink()
    return float(out.stdout)


def gathered(store, name):
    """All rounds of a row as one: the times of all frames, and the last report."""
    found = [store.read(f"{name}--{i}") for i in range(ROUNDS)]
    found = [f["report"] for f in found if f and "report" in f]
    if not found:
        return None
    times = [ms for f in found for ms in f["makespans_ms"]]
    per_s = median(f["frames_per_s"] for f in found)
    return {**found[-1], "times": times, "median_ms": median(times), "per_s": per_s}


def compare(store, one, base):
    """The numbers of a row beside its one device."""
    ours, alone = gathered(store, one.name), gathered(store, base.name)
    if ours is None or alone is None:
        return None
    is_stream = one.scenario.frames_in_flight > 1
    up = (ours["per_s"] / alone["per_s"] if is_stream
          else alone["median_ms"] / ours["median_ms"])
    most = sum(one.shares) / max(base.shares)
    payload = ours["traffic"]
    sent = sum(d["sent_bytes"] + d["received_bytes"] for d in ours["devices"])
    planned = (payload["scatter_bytes"] + payload["gather_bytes"] + 2 * payload["exchange_bytes"]
               + 2 * payload["handover_bytes"] + payload["weight_bytes"])
    return {
        "row": one.name, "base": base.name, "model": one.group, "devices": len(one.shares),
        "link": one.scenario.workers[0].link.name, "strategy": one.scenario.strategy, "is_stream": is_stream,
        "one_device_ms": alone["median_ms"], "median_ms": ours["median_ms"], "times_ms": ours["times"],
        "frames_per_s": ours["per_s"], "one_device_frames_per_s": alone["per_s"],
        "speed_up": up, "most": most, "of_most": up / most, "bound_ms": ours["bound_ms"],
        "of_bound": ours["bound_ms"] / ours["median_ms"],
        "simulated_ms": ours["simulated"]["makespan_ms"],
        "planned_ms": ours["predicted_makespan_ms"],
        "bytes_on_wires": sent, "bytes_of_payload": planned,
        "bytes_over_payload": sent / max(1, planned) - 1,
        "peak_bytes": [d["peak_bytes"] for d in ours["devices"]],
        "energy_j_per_frame": ours["energy_j_per_frame"], "reassigned": ours["reassigned"],
    }


def page(table, references, where, quick):
    """The result as Markdown."""
    lines = [
        "# What more devices bring", "",
        f"{where['date']}, {where['processor']}, kernel {where['kernel']}, commit "
        f"{where['commit']}, `{where['command']}`" + (" (the quick part of it)" if quick else "")
        + ". Made by `scripts/lab bench`; raw data in `lab.json`.", "",
        f"Each device is {SHARE} of one core of this machine (about a Raspberry Pi 4), {SLOW} in "
        "the rows named slow (about a Pi 3), or 0.4, 0.2 and 0.1 where they are mixed, computing "
        "paced to that share of its measured rates; links are shaped. One device works behind the "
        f"same link. Medians of {FRAMES} frames in each of {ROUNDS} round(s) over all rows. The payload is that of values as they lie in memory, the input a picture of at most 256 different values: fewer bytes travel.", "",
        "![speed-up](lab.png)", "",
        "| row | one device | here | speed-up | of the most | of the plan's bound | simulated | "
        "wire beside payload | peak of a worker |", "|---|---|---|---|---|---|---|---|---|"]
    for r in table:
        shown = (f"{r['one_device_frames_per_s']:.2f}/s | {r['frames_per_s']:.2f}/s" if r["is_stream"]
                 else f"{r['one_device_ms']:.0f} ms | {r['median_ms']:.0f} ms")
        lines.append(
            f"| {r['row']} | {shown} | {r['speed_up']:.2f} | {100 * r['of_most']:.0f} % of "
            f"{r['most']:.2f} | {100 * r['of_bound']:.0f} % | {r['simulated_ms']:.0f} ms | "
            f"{100 * r['bytes_over_payload']:+.1f} % | {max(r['peak_bytes']) / 1e6:.0f} MB |")
    if references:
        lines += ["", "ONNX Runtime on one core, divided by the share of one device, without a "
                  "link:", "", "| model | ONNX Runtime on the core | on one device |", "|---|---|---|"]
        lines += [f"| {name} | {ms:.1f} ms | {ms / SHARE:.0f} ms |" for name, ms in references.items()]
    return "\n".join(lines) + "\n"


def command(options):
    """Carries out `scripts/lab bench`; ends with status 75 while rows are left."""
    host.check()
    chosen = [pair for pair in rows(options.quick) if options.only in pair[0].name]
    store = cells.Store("bench")
    by_name = {c.name: c for pair in chosen for c in pair}
    names = [f"{name}--{i}" for i in range(ROUNDS) for name in by_name]
    models = {one.group for one, _ in chosen}
    names += [f"onnxruntime--{model}" for model in sorted(models)]

    def measure_one(name):
        what, part = name.rsplit("--", 1)
        if what == "onnxruntime":
            return {"ms": reference_ms(part)}
        return cells.measure(by_name[what])
    left = store.fill(names, measure_one, options.budget)
    if left:
        raise host.LabError(f"{left} runs are left", "run it again: it goes on where it was",
                            status=cells.LEFT)
    if options.measure:
        return
    table = [r for r in (compare(store, *pair) for pair in chosen) if r]
    references = {m: store.read(f"onnxruntime--{m}").get("ms") for m in sorted(models)}
    references = {m: ms for m, ms in references.items() if ms}
    where = machine()
    text = page(table, references, where, options.quick)
    failed = {n: store.read(n)["failed"].splitlines()[0] for n in names if "failed" in store.read(n)}
    text += "".join(f"\n{name} failed: {why}\n" for name, why in failed.items())
    if not options.only:
        raw = {"machine": where, "core": speed.core(), "rows": table, "onnxruntime_ms": references,
               "failed": failed}
        (RESULTS / "lab.json").write_text(json.dumps(raw, indent=1) + "\n")
        (RESULTS / "lab.md").write_text(text)
        series = {}
        for r in table:
            if not r["is_stream"] and "mixed" not in r["row"] and r["row"].endswith("100m-auto"):
                series.setdefault(r["model"], [(1, 1.0)]).append((r["devices"], r["speed_up"]))
        plots.bars(series, RESULTS / "lab.png", "times as fast as one device, 100 Mbit/s, auto")
    print(text)
