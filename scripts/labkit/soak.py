"""`scripts/lab soak`: frames without end on four emulated devices to which the same things happen again and again.

One device leaves, crashes and returns, one is slowed down, one has a full disk and loses its cable, one has little
memory. Every answer is compared with that of one device; memory and descriptors of each process are noted.
"""

import ctypes
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import files, host, run, soak_page, speed, validate
from .host import LabError, call, program, say
from .soak_disk import Disk
from .soak_felt import CABLE, CRASHES, LEAVES, METRICS, RESTARTS, SLOW, Felt, losses, signs, spared_mb
from .swarm import JOIN_S, Swarm, ends_with_the_lab, model_input

MODEL, SIZE = "zoo:tiny-yolov2", (416, 416)
CLUSTER = "four-pi4-100m"
LITTLE, LEAVING, SLOWED, FULL = range(4)
ROLES = ("little memory", "leaves and crashes", "is slowed down", "full disk, bad cable")
# What the device with little memory has for feature maps and weights.
LITTLE_MB = 64
# Told, since a worker that starts on a full disk would otherwise keep nothing and never try.
CACHE_MB = 128
# What a full disk still has, in turn: too little for all but the smallest weights, and enough for half of them.
LEFT_BYTES = (500_000, 30_000_000)
# Different inputs, so that answers that are mixed up show.
INPUTS = 3
CYCLE_S = 240
# Frames at once. The first of them wait for weights to cross the network.
IN_FLIGHT = 4
# Longer without an answer, and a frame is stuck.
STUCK_S = 120
TICK_S = 0.25
CLONE_NEWNS = 0x00020000


@dataclass
class Story:
    """What was seen."""

    frames: int
    interval_s: float
    # Of now: what is committed while it runs is no part of it.
    machine: dict = field(default_factory=validate.machine)
    began: float = 0.0
    answers: list = field(default_factory=list)
    wrong: list = field(default_factory=list)
    deeds: list = field(default_factory=list)
    samples: list = field(default_factory=list)
    report: dict | None = None
    failure: str | None = None
    ended: list = field(default_factory=list)
    warnings: dict = field(default_factory=dict)
    log_bytes: dict = field(default_factory=dict)
    signs: list = field(default_factory=list)

    def now(self):
        """Seconds since the first frame was asked for."""
        return time.monotonic() - self.began


def cycle(swarm, disk, felt):
    """What happens in every cycle: (second, what, device, how)."""
    stop, start = swarm.end_worker, swarm.start_worker
    left = itertools.cycle(LEFT_BYTES)

    def pace(times):
        swarm.set_share(SLOWED, swarm.places[SLOWED].share / times)

    def slow():
        felt.begin(SLOWED)
        pace(4)

    def fast():
        felt.end(SLOWED, SLOW)
        pace(1)

    def restart():
        stop(FULL, signal.SIGTERM)
        disk.empty()
        disk.fill(next(left))
        start(FULL)

    def room():
        felt.end(FULL, RESTARTS)
        disk.free()

    cable = swarm.network.set_carrier
    return [
        (20, SLOW, SLOWED, slow),
        (65, "as fast as before", SLOWED, fast),
        (80, LEAVES, LEAVING, lambda: stop(LEAVING, signal.SIGTERM)),
        (100, "returns", LEAVING, lambda: start(LEAVING)),
        (120, RESTARTS, FULL, restart),
        (150, CRASHES, LEAVING, lambda: stop(LEAVING, signal.SIGKILL)),
        (170, "returns", LEAVING, lambda: start(LEAVING)),
        (185, "the disk has room", FULL, room),
        (200, CABLE, FULL, lambda: cable(FULL, False)),
        (215, "the cable is in", FULL, lambda: cable(FULL, True)),
    ]


def own_mounts():
    """What is mounted from here on is seen by this process and its children alone, and ends with them."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise LabError(f"a mount namespace is refused: {os.strerror(ctypes.get_errno())}",
                       "a container needs the right to make them (CAP_SYS_ADMIN)", status=2)
    call("mount", "--make-rslave", "/")


def scenario():
    """Four devices, the first with little memory."""
    coordinator, workers = files.cluster(CLUSTER)
    workers[LITTLE] = replace(workers[LITTLE], memory_mb=LITTLE_MB)
    return files.Scenario(path="soak", model=MODEL, input_size=SIZE, cluster=CLUSTER, strategy="auto",
                          coordinator=coordinator, workers=workers, weights_cached=False)


def inputs(folder, chosen, frames):
    """A folder with an input a frame, in turn one of some; returns these."""
    whole = model_input(chosen).read_bytes()
    head, values = whole[:-values_bytes(whole)], whole[-values_bytes(whole):]
    sources = []
    for i in range(INPUTS):
        sources.append(folder / f"input-{i}.npy")
        # The same values, moved on by some: 4 bytes each.
        sources[-1].write_bytes(head + values[4 * 331 * i:] + values[:4 * 331 * i])
    (folder / "in").mkdir()
    for frame in range(frames):
        (folder / "in" / f"{frame:07}.npy").symlink_to(sources[frame % INPUTS])
    return sources


def values_bytes(whole):
    """How many bytes of a NumPy file are values: what its header does not take."""
    return len(whole) - 10 - int.from_bytes(whole[8:10], "little")


def answers_alone(folder, model, sources):
    """What one device answers to each input."""
    digests = []
    for i, source in enumerate(sources):
        out = folder / f"alone-{i}.npy"
        call(program("tilehive"), "run", model, source, "-o", out, "--workers", 1, "--strategy", "local",
             "--numerics", "exact", "--task", "raw", "--state", folder / "alone", "--json")
        digests.append(digest(out))
    return digests


def digest(path):
    """The hash of a file."""
    return hashlib.sha256(path.read_bytes()).digest()


def start_coordinator(swarm, model, folder, interval_s, trace):
    """Starts the one run that lasts to the end."""
    command = ["ip", "netns", "exec", swarm.network.namespace("c"), program("tilehive"), "run", model,
               folder / "in", "-o", folder / "out", "--format", "npy", "--strategy", "auto", "--numerics", "exact",
               "--task", "raw", "--interval", f"{round(interval_s * 1e3)}ms", "--in-flight", IN_FLIGHT,
               "--state", swarm.folder / "c",
               "--listen", swarm.listen, "--no-mdns", "--join-wait", f"{JOIN_S}s", "--expect",
               str(len(swarm.scenario.workers)), "--json", "-v"]
    if trace:
        command += ["--trace", trace]
    with open(folder / "report.json", "wb") as out, open(folder / "coordinator.log", "wb") as log:
        swarm.coordinator = subprocess.Popen(
            [str(part) for part in command], stdout=out, stderr=log, stdin=subprocess.DEVNULL,
            preexec_fn=ends_with_the_lab, env={**os.environ, "NO_COLOR": "1"})


def look(pid):
    """Resident bytes, those of them that no file has, open descriptors and processor time of a process; none where it
    is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        # After the name, which may have spaces: the state is field 3, the times 14 and 15.
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines()
                 if line.startswith(("VmRSS:", "RssAnon:"))}
    cpu_s = sum(int(ticks) for ticks in times) / os.sysconf("SC_CLK_TCK")
    return ({"pid": pid, "rss_kb": kilobytes["VmRSS"], "anon_kb": kilobytes["RssAnon"], "descriptors": descriptors,
             "cpu_s": round(cpu_s, 2)} if kilobytes else None)


def sample(swarm, story):
    """Notes all processes."""
    processes = {"coordinator": swarm.coordinator.pid} | {
        ROLES[i]: process.pid for i, process in swarm.processes.items()}
    row = {name: seen for name, pid in processes.items() if (seen := look(pid))}
    story.samples.append({"at_s": round(story.now(), 1), "answers": len(story.answers), "processes": row})


def collect(folder, story, expected, ended):
    """Compares the answers that are complete and removes them; the last one may still be written.

    An answer came when its file was written, however late it is looked at here.
    """
    found = sorted((folder / "out").glob("*.npy"))
    for path in found if ended else found[:-1]:
        frame, came = int(path.stem), path.stat().st_mtime - time.time() + time.monotonic()
        if not story.answers:
            # Time counts from the first answer: joining and the first weights are no part of it.
            story.began = came
        story.answers.append((frame, came - story.began))
        if digest(path) != expected[frame % INPUTS]:
            story.wrong.append(frame)
        path.unlink()


def watch(swarm, folder, story, expected, deeds, sample_s):
    """Lets it run to its end: frames, deeds and samples."""
    last_s = story.frames * story.interval_s
    planned = [(at_s + turn * CYCLE_S, *rest) for turn in range(int(last_s // CYCLE_S) + 1)
               for at_s, *rest in deeds if at_s + turn * CYCLE_S < last_s - 5]
    sampled, heard, count = -sample_s, time.monotonic(), 0
    while swarm.coordinator.poll() is None:
        collect(folder, story, expected, False)
        if len(story.answers) > count:
            count, heard = len(story.answers), time.monotonic()
        for i in [i for i, process in swarm.processes.items() if process.poll() is not None]:
            story.ended.append(f"`{ROLES[i]}` ended by itself with {swarm.processes[i].returncode} after "
                               f"{story.now():.0f} s")
            swarm.end_worker(i)
            swarm.start_worker(i)
        if time.monotonic() - heard > STUCK_S:
            story.failure = f"no answer for {STUCK_S} s after {count} of {story.frames}"
            return
        while count and planned and planned[0][0] <= story.now():
            _, what, device, do = planned.pop(0)
            at_s = round(story.now(), 1)
            do()
            story.deeds.append({"at_s": at_s, "device": ROLES[device], "what": what})
        if count and story.now() >= sampled + sample_s:
            sampled = story.now()
            sample(swarm, story)
        time.sleep(TICK_S)
    collect(folder, story, expected, True)
    if swarm.coordinator.returncode != 0:
        story.failure = f"the run ended with {swarm.coordinator.returncode}"
        return
    story.report = json.loads((folder / "report.json").read_text())


def read_logs(swarm, folder, story, felt, kept):
    """What the logs say; keeps them where asked to."""
    logs = {"coordinator": folder / "coordinator.log"} | {
        role: swarm.folder / f"w{i}" / "log" for i, role in enumerate(ROLES)}
    said = {name: path.read_text() for name, path in logs.items()}
    story.log_bytes = {name: path.stat().st_size for name, path in logs.items()}
    story.warnings = {name: sum(" WARN " in line or " ERROR " in line for line in text.splitlines())
                      for name, text in said.items()}
    lost = {i: losses(said["coordinator"], swarm.scenario.workers[i].name) for i in (LEAVING, FULL)}
    spared = spared_mb(story.samples, ROLES[LITTLE])
    story.signs = signs(story.deeds, felt.sums, lost[LEAVING], lost[FULL], spared)
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        for name, path in logs.items():
            shutil.copy(path, kept / (name.replace(" ", "-").replace(",", "") + ".log"))
    return said


def interval(options, chosen, dilation, places):
    """The time from one frame to the next: as asked, or three times what the plan predicts for one."""
    if options.interval_ms:
        return options.interval_ms / 1e3
    told = run.simulated(replace(chosen, frames=3, weights_cached=True), dilation, places, speed.core())
    return max(0.25, 3 * dilation * max(told["makespans_ms"]) / 1e3)


def command(options):
    """Carries out `scripts/lab soak`."""
    host.check()
    chosen = scenario()
    dilation, places = run.prepare(chosen)
    every_s = interval(options, chosen, dilation, places)
    story = Story(frames=max(2, round(options.minutes * 60 / every_s)), interval_s=every_s)
    model = speed.sized(chosen.model, chosen.input_size)
    say(f"{story.frames} frames of {model}, one in {every_s:.2f} s, {dilation} times as slow as real devices")
    own_mounts()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilehive-lab-soak-")))
        sources = inputs(folder, chosen, story.frames)
        expected = answers_alone(folder, model, sources)
        swarm = stack.enter_context(Swarm(chosen, places, dilation, speed.core()))
        swarm.flags = {i: ["--metrics", METRICS] for i in range(len(chosen.workers))}
        swarm.flags[FULL] += ["--cache-mb", str(CACHE_MB)]
        disk = Disk(swarm.folder / f"w{FULL}")
        stack.callback(disk.unmount)
        felt = Felt(swarm)
        start_coordinator(swarm, model, folder, every_s, options.trace)
        for i in range(len(chosen.workers)):
            swarm.start_worker(i)
        try:
            watch(swarm, folder, story, expected, cycle(swarm, disk, felt), options.sample_s)
        except KeyboardInterrupt:
            story.failure = "it was interrupted"
        said = read_logs(swarm, folder, story, felt, options.logs)
        if story.failure:
            say(swarm.logs(said["coordinator"].splitlines(keepends=True)))
    told = soak_page.told(story, dilation, IN_FLIGHT)
    soak_page.write(told, options.into)
    print(soak_page.summary(told))
    if told["faults"]:
        raise LabError("; ".join(told["faults"]))
