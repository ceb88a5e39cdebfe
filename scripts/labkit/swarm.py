"""A running lab: real workers in their namespaces and cgroups, and one run of the real coordinator."""

import atexit
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import speed
from .groups import Groups
from .host import LabError, call, own_folder, program
from .network import Network
from .scale import quota

PORT = 47990
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
JOIN_S = 30


@dataclass
class Outcome:
    """What a run left behind, in real (dilated) time."""

    report: dict
    trace: dict
    workers: list
    notes: list
    log: str
    marks: list = field(default_factory=list)


def ends_with_the_lab():
    """Between fork and exec: the process dies with its parent, however that ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Swarm:
    """Namespaces, cgroups and worker processes of one scenario. Use it with `with`."""

    def __init__(self, scenario, places, dilation, rates, limit="rates"):
        self.scenario = scenario
        self.places = places
        self.limit = limit
        self.rates = rates
        self.dilation = dilation
        self.folder = None
        self.network = Network(os.getpid(), dilation)
        self.groups = Groups(os.getpid())
        self.processes = {}
        self.coordinator = None
        self.token = None
        self.peaks = {}
        # What single workers are told beside what all are, by index.
        self.flags = {}

    def __enter__(self):
        atexit.register(self.stop)
        # An orderly end for the signals that ask for one; SIGKILL leaves work for `scripts/lab clean`.
        for asked in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(asked, lambda number, _: (_ for _ in ()).throw(SystemExit(128 + number)))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def _start(self):
        self.folder = Path(tempfile.mkdtemp(prefix=f"tilehive-lab-{os.getpid()}-"))
        self.groups.start()
        self.network.start()
        self.network.attach("c", self.scenario.coordinator)
        for i, worker in enumerate(self.scenario.workers):
            self.network.attach(i, worker.link, worker.access_point)
            self.groups.add(i, worker.memory_mb)
            state = self.folder / f"w{i}"
            state.mkdir()
            self.set_share(i, self.places[i].share)
            (state / "rates.json").write_text(
                speed.rates_json(speed.scaled(self.rates, self.places[i].share)))
            if self.scenario.weights_cached:
                (state / "blobs").symlink_to(store(self.scenario))
        self.listen = f"/ip4/{self.network.address('c')}/tcp/{PORT}"
        self.token = call("ip", "netns", "exec", self.network.namespace("c"), program("tilehive"),
                          "token", "--listen", self.listen, "--state", self.folder / "c").strip()

    def set_share(self, i, share):
        """How much of its core a worker computes with from now on.

        By rates a task takes what the share of the core's rates says. By time it takes its own
        processor time divided by the share, which grows while others compute on the same core. By
        quota the kernel stops the whole process, networking included, for a part of each period: true
        of a device with one slow core, and too fast for jobs that fit into one period.
        """
        if self.limit == "quota":
            self.groups.limit(i, *quota(share))
            return
        path = self.folder / f"w{i}" / "pace"
        beside = path.with_suffix(".new")
        beside.write_text(f"{1 / share}\n")
        beside.rename(path)

    def start_worker(self, i):
        """Starts a worker in its namespace, on its core, under its limits."""
        worker, core = self.scenario.workers[i], self.places[i].core
        state = self.folder / f"w{i}"

        def confine():
            ends_with_the_lab()
            self.groups.enter(i)
            os.sched_setaffinity(0, {core})

        command = ["ip", "netns", "exec", self.network.namespace(i), program("tilehive-worker"),
                   "--threads", "1", "--name", worker.name, "--state", state, "--no-mdns",
                   "--rates", state / "rates.json", "--memory-mb", str(round(worker.memory_mb)),
                   "-v"]
        if self.limit != "quota":
            command += ["--pace", state / "pace"]
        if self.limit == "rates":
            command += ["--pace-by-rates"]
        command += self.flags.get(i, [])
        with open(state / "log", "ab") as log:
            self.processes[i] = subprocess.Popen(
                command, env={**os.environ, "TILEHIVE_TOKEN": self.token}, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, preexec_fn=confine)

    def end_worker(self, i, how=signal.SIGKILL):
        """Ends a worker's process."""
        process = self.processes.pop(i, None)
        if process is not None:
            self._note_peak(i, process)
            process.send_signal(how)
            process.wait(10)

    def _note_peak(self, i, process):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        if found:
            self.peaks[i] = max(self.peaks.get(i, 0), int(found[1]) * 1024)

    def run(self, arguments, late, on_frame, patience_s):
        """Runs the coordinator once over all workers but those that come late.

        `on_frame(number, seconds)` hears when each frame begins.
        """
        trace = self.folder / "trace.json"
        first = [i for i in range(len(self.scenario.workers)) if i not in late]
        command = ["ip", "netns", "exec", self.network.namespace("c"), program("tilehive"), "run",
                   *arguments, "--state", self.folder / "c", "--listen", self.listen, "--no-mdns",
                   "--join-wait", f"{JOIN_S}s", "--expect", str(len(first)), "--task", "raw",
                   "--json", "--trace", trace, "-v"]
        log = []
        joined = threading.Condition()
        self.coordinator = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, text=True, preexec_fn=ends_with_the_lab,
            env={**os.environ, "NO_COLOR": "1"})
        coordinator = self.coordinator

        def listen():
            for line in coordinator.stderr:
                with joined:
                    log.append(line)
                    joined.notify_all()
                begins = re.search(r"frame (\d+) begins", line)
                if begins:
                    on_frame(int(begins[1]), time.monotonic())

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        # One after another, so that the ids of the workers are in the order of the cluster file.
        for count, i in enumerate(first, 1):
            if i not in self.processes:
                self.start_worker(i)
            with joined:
                there = joined.wait_for(
                    lambda: sum(" joined: " in line for line in log) >= count
                    or coordinator.poll() is not None, JOIN_S)
            if not there or (coordinator.poll() is not None):
                break
        try:
            out, _ = communicate(coordinator, patience_s)
        except subprocess.TimeoutExpired as error:
            coordinator.kill()
            raise LabError(f"the run did not end within {patience_s:.0f} s\n{self.logs(log)}") from error
        listener.join(2)
        if coordinator.returncode != 0:
            raise LabError(f"the run failed\n{self.logs(log)}")
        for i, process in self.processes.items():
            self._note_peak(i, process)
        workers = [{"peak_bytes": self.peaks.get(i, 0), "moved": self.network.moved(i),
                    "cpu": self.groups.cpu_s(i)} for i in range(len(self.scenario.workers))]
        return Outcome(json.loads(out), json.loads(trace.read_text()), workers,
                       list(self.network.notes), "".join(log))

    def logs(self, log):
        """The last lines of everybody, for an error."""
        parts = ["coordinator:\n" + "".join(log[-12:])]
        for i in range(len(self.scenario.workers)):
            path = self.folder / f"w{i}" / "log"
            if path.is_file():
                parts.append(f"worker {i}:\n" + "\n".join(path.read_text().splitlines()[-4:]))
        return "\n".join(parts)

    def stop(self):
        """Ends all processes and removes all that was made; may be called again."""
        atexit.unregister(self.stop)
        if self.coordinator is not None and self.coordinator.poll() is None:
            self.coordinator.kill()
            self.coordinator.wait(10)
        for i in list(self.processes):
            self.end_worker(i)
        self.network.stop()
        self.groups.stop()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


def communicate(process, patience_s):
    """Reads stdout to its end; stderr has a reader of its own."""
    box = []
    reader = threading.Thread(target=lambda: box.append(process.stdout.read()), daemon=True)
    reader.start()
    process.wait(patience_s)
    reader.join(5)
    return (box[0] if box else ""), None


def named(scenario):
    """A file name for a scenario's model at its input size."""
    size = "x".join(map(str, scenario.input_size or ()))
    return re.sub(r"\W+", "-", f"{scenario.model} {size}").strip("-")


def model_input(scenario):
    """A file with an input of the scenario's model, made once."""
    model = speed.sized(scenario.model, scenario.input_size)
    folder = own_folder() / "inputs"
    folder.mkdir(exist_ok=True)
    path = folder / f"{named(scenario)}.npy"
    if not path.is_file():
        command = [program("tilehive"), "model", "inspect", model, "--json"]
        if scenario.input_size and model == scenario.model:
            command += ["--input-size", "x".join(map(str, scenario.input_size))]
        dims = json.loads(call(*command))["inputs"]
        if len(dims) != 1 or any(not isinstance(d, int) for d in dims[0]["dims"]):
            raise LabError(f"the lab has no input for {model}: {dims}",
                           "it makes arrays for models of one input; say `input_size` in the "
                           "scenario where the size is open", status=2)
        path.write_bytes(npy(dims[0]["dims"]))
    return path


def npy(dims):
    """An array in NumPy's format, the same each time: f32 values from -1 to 1, as many different ones as
    a picture has, since it takes fewer bytes on the wire than numbers without pattern."""
    from array import array
    count = 1
    for dim in dims:
        count *= dim
    # A pattern whose period no row length shares; its values do not matter, that they differ does.
    pattern = [(i * 7919) % 997 % 256 / 127.5 - 1.0 for i in range(997)]
    values = array("f", (pattern * (count // 997 + 1))[:count])
    shape = ", ".join(map(str, dims)) + ("," if len(dims) == 1 else "")
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values.tobytes()


def store(scenario):
    """A folder with the weights of the scenario's model, as workers keep them; filled once."""
    folder = own_folder() / "store"
    model = speed.sized(scenario.model, scenario.input_size)
    done = folder / f"{named(scenario)}.done"
    if not done.is_file():
        call(program("tilehive"), "run", model, model_input(scenario), "--workers", 1,
             "--strategy", "local", "--task", "raw", "--state", folder, "--json")
        done.touch()
    return folder / "blobs"
