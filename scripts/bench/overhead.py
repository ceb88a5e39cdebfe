"""What the programs' processor time goes to beside computing: `scripts/bench-overhead`."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from bench import samples
from labkit import bench, cells, host, plots
from labkit.files import Scenario
from labkit.swarm import ends_with_the_lab, model_input
from labkit.validate import RESULTS, machine

HEAVY = ("vgg16-convolutions", "yolov2-416", "unet")
MODELS = (*HEAVY, "resnet50", "mobilenetv2")
# Weights are packed and links learned in these frames.
WARM = 40
HERTZ = 499
AIM = 0.05
# More than fit into the time: the run is ended when it has been sampled for long enough.
FRAMES_MAX = 4000


def run(model, workers, wire, seconds, folder):
    """Samples one run from the first frame after the warm-up on."""
    told, size = bench.model_of(model)
    scenario = Scenario(path=model, model=told, cluster="", coordinator=None, workers=[], input_size=size)
    data = model_input(scenario)
    command = [host.program("tilehive"), "run", told, *[data] * FRAMES_MAX, "--workers", workers, "--wire", wire,
               "--strategy", "auto", "--in-flight", 1, "--task", "raw", "--json", "--no-mdns", "-v",
               "--listen", "/ip4/127.0.0.1/tcp/0", "--state", folder]
    warm, frames = threading.Event(), Counter()
    log = []

    def listen(stream):
        for line in stream:
            log.append(line)
            begins = re.search(r"frame (\d+) begins", line)
            if begins:
                frames["last"] = int(begins[1])
                if int(begins[1]) >= WARM:
                    warm.set()
        warm.set()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, preexec_fn=ends_with_the_lab, env={**os.environ, "NO_COLOR": "1"})
    try:
        threading.Thread(target=listen, args=(process.stderr,), daemon=True).start()
        warm.wait(120)
        if process.poll() is not None or frames["last"] < WARM:
            raise host.LabError(f"{model} did not run:\n{''.join(log[-8:])}")
        children = children_of(process.pid)
        first, begun = frames["last"], len(log)
        path = folder / "perf.data"
        samples.record([process.pid, *children], seconds, HERTZ, path)
        done, plans = frames["last"] - first, sum("a new plan" in line for line in log[begun:])
    finally:
        process.kill()
        process.wait(10)
    roles = {process.pid: "coordinator"}
    by_role, whose = samples.count(samples.read(path), roles)
    path.unlink()
    return told_of(model, workers, wire, by_role, whose, done, plans)


def children_of(pid):
    """The worker processes that the coordinator started."""
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()]


def told_of(model, workers, wire, by_role, whose, frames, plans):
    """Shares of all processor time but waiting."""
    total = sum(count for (_, name), count in by_role.items() if name != samples.WAITING)
    shares = {name: sum(count for (_, of), count in by_role.items() if of == name) / max(1, total)
              for name in samples.CLASSES}
    roles = {role: {name: by_role[role, name] / max(1, total) for name in samples.CLASSES}
             for role in ("coordinator", "worker")}
    useful = sum(shares[name] for name in samples.USEFUL)
    return {"model": model, "workers": workers, "wire": wire, "frames": frames, "plans": plans, "samples": total,
            "ms_per_frame": 1e3 * total / HERTZ / max(1, frames), "shares": shares, "roles": roles, "overhead": 1 - useful,
            "overhead_without_planning": 1 - useful - shares["planning"],
            "waiting": shares[samples.WAITING],
            "largest": {name: [[who, count / max(1, total)] for who, count in counts.most_common(5)]
                        for name, counts in whose.items()}}


def page(rows, where):
    """The result as Markdown."""
    shown = [name for name in samples.CLASSES if name != samples.WAITING]
    head = " | ".join(shown)
    lines = [
        "# What processor time goes to", "",
        f"{where['date']}, {where['processor']}, kernel {where['kernel']}, commit {where['commit']}, "
        f"`{where['command']}`. Made by `scripts/bench-overhead`; raw data, with the largest functions of each class, in "
        "`overhead.json`.", "",
        f"`tilehive run` with local workers of one thread, one frame after another by `auto`, sampled {HERTZ} times a "
        f"second of processor time of all its processes after {WARM} frames. Each sample counts for the innermost "
        "function of its stack that any class knows; shares are of all samples but those of threads that wait for others. "
        "Overhead is all but kernels and the packing of weights. `lossless` encodes what links are slower for; on the "
        "loopback network `auto` does not. Maps that travel there are raw, and each core has a fast kernel for them: the slower a "
        "device's cores, the more of the time is kernels. Other programs may have run: shares are less disturbed than times.", "",
        "![shares](overhead.png)", "",
        f"| model | workers | wire | processor time of a frame | overhead | {head} | waiting beside | samples | new plans |",
        "|---" * (len(shown) + 8) + "|"]
    for r in rows:
        parts = " | ".join(f"{100 * r['shares'][name]:.1f} %" for name in shown)
        lines.append(f"| {r['model']} | {r['workers']} | {r['wire']} | {r['ms_per_frame']:.0f} ms | "
                     f"**{100 * r['overhead']:.1f} %** | {parts} | "
                     f"{100 * r['waiting']:.1f} % | {r['samples']} | {r['plans']} |")
    heavy = [r for r in rows if r["model"] in HEAVY]
    within = sum(r["overhead"] < AIM for r in heavy)
    lines += ["", f"Of the {len(heavy)} rows of heavy networks ({', '.join(HEAVY)}) {within} are below "
              f"{100 * AIM:.0f} %.", "", "## The largest beside computing", "",
              "| model | workers | wire | function | share |", "|---|---|---|---|---|"]
    for r in rows:
        largest = [(share, who, name) for name, all_ in r["largest"].items()
                   if name not in (*samples.USEFUL, samples.WAITING) for who, share in all_]
        for share, who, name in sorted(largest, reverse=True)[:3]:
            lines.append(f"| {r['model']} | {r['workers']} | {r['wire']} | `{who}` ({name}) | {100 * share:.1f} % |")
    return "\n".join(lines) + "\n"


def plot(rows, path):
    """Stacked bars: what is not kernels, by class."""
    plt = plots.pyplot()
    if plt is None:
        return
    shown = [name for name in samples.CLASSES if name not in (samples.KERNELS, samples.WAITING)]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.35 * len(rows)))
    left = [0.0] * len(rows)
    labels = [f"{r['model']}, {r['workers']} workers, {r['wire']}" for r in rows]
    colours = plt.get_cmap("tab20")
    for i, name in enumerate(shown):
        widths = [100 * r["shares"][name] for r in rows]
        axes.barh(labels, widths, left=left, label=name, color=colours(i))
        left = [a + b for a, b in zip(left, widths)]
    axes.axvline(100 * AIM, color="grey", linewidth=0.7, linestyle=":")
    axes.set(xlabel="% of processor time; the rest are kernels")
    axes.invert_yaxis()
    axes.legend(fontsize=7, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    """Measures, prints and writes."""
    top = argparse.ArgumentParser(prog="scripts/bench-overhead", description=__doc__)
    top.add_argument("--seconds", type=int, default=20, help="sample each run for so long [default: %(default)s]")
    top.add_argument("--workers", default="2,4", metavar="N,...", help="[default: %(default)s]")
    top.add_argument("--models", default=",".join(MODELS), metavar="A,...", help="[default: all]")
    top.add_argument("--wire", default="auto,lossless", metavar="FORM,...", help="[default: %(default)s]")
    top.add_argument("--budget", type=float, default=9e3, metavar="SECONDS", help="measure for so long, end with status 75 "
                     "if something is left, go on the next time")
    top.add_argument("--dry", action="store_true", help="print the page and write nothing")
    options = top.parse_args()
    unknown = sorted(set(options.models.split(",")) - set(MODELS))
    if unknown:
        top.error(f"no model is called {unknown[0]}: there are {', '.join(MODELS)}")
    host.settle_programs()
    chosen = {f"{model}-{workers}-{wire}": (model, int(workers), wire) for model in options.models.split(",")
              for wire in options.wire.split(",") for workers in options.workers.split(",")}
    # By the programs too: those that were built since are measured anew.
    store = cells.Store(f"overhead-{host.programs_hash()}")
    folder = Path(tempfile.mkdtemp(prefix="tilehive-overhead-"))
    try:
        left = store.fill(list(chosen), lambda name: run(*chosen[name], options.seconds, folder), options.budget)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if left:
        print(f"error: {left} runs are left\nhint: run it again: it goes on where it was", file=sys.stderr)
        return cells.LEFT
    rows = [store.read(name) for name in chosen]
    for failed in [row for row in rows if "failed" in row]:
        print(f"error: {failed['failed']}", file=sys.stderr)
    rows = [row for row in rows if "failed" not in row]
    where = {**machine(), "command": " ".join(["scripts/bench-overhead", *sys.argv[1:]])}
    text = page(rows, where)
    if not options.dry:
        (RESULTS / "overhead.json").write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")
        (RESULTS / "overhead.md").write_text(text)
        plot(rows, RESULTS / "overhead.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
