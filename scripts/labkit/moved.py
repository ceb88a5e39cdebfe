"""`scripts/lab bytes`: what a plan says that a frame moves, beside what moved, and what the cables carried.

Counters of the interfaces are read whenever a frame begins, so that what joining, weights and measurements cost
falls out of the frames, and is told apart.
"""

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from . import bench, cells, host, run, speed
from .host import LabError
from .swarm import Swarm
from .validate import RESULTS, machine

MODELS = ("vgg16-convolutions", "unet", "yolov2-416", "resnet50", "mobilenetv2")
DEVICES = (2, 4, 8)
# Of these frames the first teach what maps take on the wire, and may bring another plan.
FRAMES = 24
WARM = 8
STEADY_MIN = 4
PATIENCE_S = 150
# Ethernet, IPv4, and TCP with its time stamps.
HEADERS_BYTES = 66
KEYS = ("planned_bytes", "moved_bytes", "carried_bytes", "carried_packets")
# What a plan may be off by.
ERROR_MAX = 0.05
DONE = re.compile(r"frame (\d+) done: (\d+) bytes of maps moved since the one before, (\d+) predicted")
CHANGED = re.compile(r"frames get the new plan from now on")


@dataclass(frozen=True)
class Reading:
    """The counters of all interfaces when a frame began: bytes and packets that were sent."""

    sent_bytes: int
    sent_packets: int


def read(pids):
    """The counters of the interfaces of these processes, each in a namespace of its own."""
    bytes_, packets = 0, 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == "eth0":
                fields = numbers.split()
                bytes_, packets = bytes_ + int(fields[8]), packets + int(fields[9])
    return Reading(bytes_, packets)


def measure(cell):
    """One run: readings by frame, and what the log says of each."""
    scenario = replace(cell.scenario, frames=FRAMES)
    dilation, places = run.prepare(scenario, cell.dilation, list(cell.shares))
    readings = []
    with Swarm(scenario, places, dilation, speed.core()) as swarm:
        # Else a packet of the counters is one of several kilobytes, with one header.
        swarm.network.send_whole_packets()

        def on_frame(_number, _seconds):
            workers = [process.pid for process in swarm.processes.values()]
            readings.append(read([swarm.coordinator.pid, *workers]))
        outcome = swarm.run(run.arguments(scenario, 0, dilation), set(), on_frame, PATIENCE_S)
    return told(cell, outcome, readings)


def told(cell, outcome, readings):
    """What a run says, frame by frame."""
    lines = outcome.log.splitlines()
    frames = [DONE.search(line) for line in lines]
    frames = [{"moved_bytes": int(m[2]), "planned_bytes": int(m[3])} for m in frames if m]
    if len(frames) != FRAMES or len(readings) != FRAMES:
        raise LabError(f"{len(frames)} frames of {FRAMES} were told of, {len(readings)} read")
    for frame, begins, ends in zip(frames, readings, readings[1:]):
        frame["carried_bytes"] = ends.sent_bytes - begins.sent_bytes
        frame["carried_packets"] = ends.sent_packets - begins.sent_packets
    counters = outcome.report["counters"]
    keys = ("tasks", "stolen_tasks", "stolen_bytes", "backups", "exchanged_bytes", "scattered_bytes",
            "gathered_bytes")
    return {"cell": cell.name, "model": cell.group, "devices": len(cell.shares), "changes": changes(lines),
            "before_bytes": readings[0].sent_bytes, "measuring_bytes": outcome.report["measuring_bytes"],
            "frames": frames,
            "counters": {key: counters[key] for key in keys}}


def changes(lines):
    """The frames that were the first by another plan."""
    found, frame = [], 0
    for line in lines:
        done = DONE.search(line)
        if done:
            frame = int(done[1]) + 1
        elif CHANGED.search(line):
            found.append(frame)
    return found


def steady_of(found):
    """The frames by one plan at the end of a run, after the warm-up and the first frame of that plan."""
    first = max(WARM, 1 + max([0, *found["changes"]]))
    frames = found["frames"][first:-1]
    return frames if len(frames) >= STEADY_MIN else found["frames"][WARM:-1]


def row(found):
    """What is claimed of a run."""
    frames, steady = found["frames"], steady_of(found)

    def of(key):
        return sum(frame[key] for frame in steady) / len(steady)
    planned, moved, carried, packets = map(of, KEYS)
    # By the first plan, made before anything was seen, without the steals that some frames have beside.
    by_first = frames[1:min([WARM, *found["changes"]])]
    unseen = min((frame["moved_bytes"] for frame in by_first), default=None)
    usual = median(frame["moved_bytes"] for frame in steady)
    return {"cell": found["cell"], "model": found["model"], "devices": found["devices"],
            "plans": 1 + len(found["changes"]), "frames": len(steady), "planned_bytes": planned,
            "moved_bytes": moved, "carried_bytes": carried, "carried_packets": packets,
            "error": median(f["planned_bytes"] for f in steady) / usual - 1, "error_of_all": planned / moved - 1,
            "first_planned_bytes": frames[0]["planned_bytes"], "first_moved_bytes": frames[0]["moved_bytes"],
            "unseen_error": frames[0]["planned_bytes"] / unseen - 1 if unseen else None,
            "headers": HEADERS_BYTES * packets / moved, "framing": carried / moved - 1,
            "before_bytes": found["before_bytes"], "measuring_bytes": found["measuring_bytes"],
            "counters": found["counters"]}


def page(rows, where):
    """The result as Markdown."""
    def size(count):
        return f"{count / 1e6:.3f}"

    def per_cent(part):
        return "" if part is None else f"{100 * part:+.1f} %"
    lines = [
        "# What a plan says that a frame moves, and what moved", "",
        f"{where['date']}, {where['processor']}, kernel {where['kernel']}, commit {where['commit']}, "
        f"`{where['command']}`. Made by `scripts/lab bytes`; raw data in `bytes.json`.", "",
        f"MB a frame over links of 100 Mbit/s with `auto`, on average of the frames by the last plan, after {WARM} that "
        "teach what maps take on the wire. Moved are maps as they travelled, each way between two devices counted once, "
        "as workers and coordinator count them. *Off by* compares medians; *all* the sums, in which are steals and second "
        "copies too, that no plan foresees (on a busy machine more of them). *Unseen* compares what the first plan "
        "said, made before anything was seen but the input, with the frame by it that moved least, the first left out, in "
        "which weights are packed and tasks move for that.", "",
        "Carried is what the interfaces sent, from the beginning of a frame to that of the next, Ethernet included. What "
        f"is beside the maps: {HEADERS_BYTES} bytes of headers a packet, acknowledgements' too, and the rest: heads of "
        "bundles, control messages, Noise and Yamux.", "",
        "| model | devices | planned | moved | off by | all | unseen | carried | beside the maps | headers | rest | "
        "plans | frames |", "|---" * 13 + "|"]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['devices']} | {size(r['planned_bytes'])} | {size(r['moved_bytes'])} | "
            f"{per_cent(r['error'])} | {per_cent(r['error_of_all'])} | {per_cent(r['unseen_error'])} | "
            f"{size(r['carried_bytes'])} | {per_cent(r['framing'])} | {per_cent(r['headers'])} | "
            f"{per_cent(r['framing'] - r['headers'])} | {r['plans']} | {r['frames']} |")
    within = sum(1 for r in rows if abs(r["error"]) <= ERROR_MAX)
    unseen = [r["unseen_error"] for r in rows if r["unseen_error"] is not None]
    lines += ["", f"Within {100 * ERROR_MAX:.0f} %: {within} of {len(rows)}; unseen "
              f"{sum(1 for e in unseen if abs(e) <= ERROR_MAX)} of {len(unseen)}.", "",
              "## Before the first frame", "",
              "Joining, and measuring the links and the ways between workers: MB in all, weights being there. A way is "
              "measured again after a minute, and after twice as long each time that it was as before, up to 16 minutes.",
              "", "| devices | carried | of it measurements |", "|---|---|---|"]
    for devices in DEVICES:
        of = [r for r in rows if r["devices"] == devices]
        if of:
            lines.append(f"| {devices} | {size(median(r['before_bytes'] for r in of))} | "
                         f"{size(of[0]['measuring_bytes'])} |")
    return "\n".join(lines) + "\n"


def command(options):
    """Carries out `scripts/lab bytes`; ends with status 75 while runs are left."""
    host.check()
    store = cells.Store("bytes")
    chosen = {}
    for model in MODELS:
        for devices in DEVICES:
            cell = bench.row(model, devices, "100m")
            if options.only in cell.name:
                chosen[cell.name] = cell
    left = store.fill(list(chosen), lambda name: measure(chosen[name]), options.budget)
    if left:
        raise LabError(f"{left} runs are left", "run it again: it goes on where it was",
                       status=cells.LEFT)
    if options.measure:
        return
    found = [store.read(name) for name in chosen]
    for one in found:
        if "failed" in one:
            host.say(f"{one['cell']} failed: {one['failed']}")
    rows = [row(one) for one in found if "failed" not in one]
    where = machine()
    text = page(rows, where)
    if not options.only:
        raw = {"machine": where, "rows": rows, "runs": found}
        (RESULTS / "bytes.json").write_text(json.dumps(raw) + "\n")
        (RESULTS / "bytes.md").write_text(text)
    print(text)
    off = [r["cell"] for r in rows if abs(r["error"]) > ERROR_MAX]
    if off:
        raise LabError(f"planned bytes are more than {100 * ERROR_MAX:.0f} % off: {', '.join(off)}")
    sys.stdout.flush()
