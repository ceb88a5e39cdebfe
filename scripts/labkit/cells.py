"""Measured cells of a matrix: each is one run, kept as a file, so that a long matrix can be stopped and
goes on where it was."""

import json
import time
from dataclasses import dataclass

from . import host, report, run, speed
from .files import Link, Scenario, Worker, link

# Whoever runs a slice again and again knows by this status that cells are left.
LEFT = 75
MEMORY_MB = 1500


@dataclass(frozen=True)
class Cell:
    """One run: a scenario, and which share of a core each of its devices is."""

    name: str
    group: str
    scenario: Scenario
    shares: tuple
    warm: int = 2
    dilation: float = 1.0


def wire(mbit_per_s):
    """A wire of a rate that no file has."""
    return Link(f"{mbit_per_s} Mbit/s", "wire", mbit_per_s, mbit_per_s, 10, False,
                {"p50_ms": 0.2})


def link_of(name):
    """A link by the word that cells use for it."""
    return {"20m": lambda: wire(19.0), "100m": lambda: link("ethernet-100m", None),
            "1g": lambda: link("ethernet-1g", None), "wifi": lambda: link("wifi-ac", None)}[name]()


def cell(name, model, shares, link_name, strategy, *, group=None, frames=3, in_flight=1, warm=2,
         dilation=1.0, **more):
    """A cell of devices that differ by their share alone."""
    own = link_of(link_name)
    # The coordinator hangs on the access point's switch, by a link that is no bottleneck of the air.
    head = link_of("1g") if link_name in ("wifi", "1g") else own
    device = {"name": "a share of a core", "memory_mb": MEMORY_MB}
    workers = [Worker(f"device-{i + 1}", None, device, own, 0, MEMORY_MB, 0.0)
               for i in range(len(shares))]
    scenario = Scenario(path=name, model=model, cluster=name, coordinator=head, workers=workers,
                        frames=frames, strategy=strategy, frames_in_flight=in_flight, **more)
    return Cell(name, group or name, scenario, tuple(shares), warm, dilation)


def simulate(cell_):
    """The cell in the simulator. Frames one after another do not overlap there either."""
    dilation, places = run.prepare(cell_.scenario, cell_.dilation, list(cell_.shares))
    one_by_one = cell_.scenario.frames_in_flight == 1
    return run.simulated(cell_.scenario, dilation, places, speed.core(), cell_.warm,
                         interval_ms=60_000 * dilation if one_by_one else None)


def measure(cell_):
    """The cell for real: what is kept of it."""
    dilation, places = run.prepare(cell_.scenario, cell_.dilation, list(cell_.shares))
    begun = time.monotonic()
    outcome = run.measure(cell_.scenario, dilation, places, speed.core(), cell_.warm)
    told = simulate(cell_)
    built = report.build(cell_.scenario, outcome, told, dilation, cell_.warm)
    built["tasks"] = tasks(outcome.trace, cell_.warm, dilation)
    built["simulated"]["tasks"] = tasks(told["trace"], cell_.warm, dilation)
    return {"cell": cell_.name, "group": cell_.group, "shares": cell_.shares,
            "took_s": round(time.monotonic() - begun, 1), "core": speed.core(), "report": built}


def tasks(trace, warm, dilation):
    """By stage: how many tasks of the last frame there were, their computing, their bytes."""
    frames = sorted(report.frames_of(trace))
    names = report.devices(trace)
    return [[span["task"]["stage"], span["task"]["tile"], names.get(span["device"], "?"),
             span["activity"], round((span["end_ns"] - span["start_ns"]) / 1e6 / dilation, 2),
             span["bytes"]]
            for span in report.spans(trace)
            if span.get("task") and span["task"]["frame"] == frames[-1]]


class Store:
    """The raw results of a matrix."""

    def __init__(self, what):
        self.folder = host.own_folder() / what
        self.folder.mkdir(exist_ok=True)

    def path(self, name):
        """Where a result lies."""
        return self.folder / f"{name}.json"

    def read(self, name):
        """A result, if it is there."""
        path = self.path(name)
        return json.loads(path.read_text()) if path.is_file() else None

    def fill(self, names, measure_one, budget_s):
        """Measures what is missing, as long as the budget lasts; returns how many are left."""
        begun = time.monotonic()
        longest = 15.0
        missing = [name for name in names if not self.path(name).is_file()]
        for at, name in enumerate(missing):
            if time.monotonic() - begun + longest > budget_s:
                return len(missing) - at
            started = time.monotonic()
            try:
                found = measure_one(name)
            except host.LabError as error:
                found = {"cell": name, "failed": str(error)}
            found["programs"] = host.programs_hash()
            self.path(name).write_text(json.dumps(found))
            longest = max(longest, (time.monotonic() - started))
            host.say(f"{at + 1:>3} of {len(missing)}: {name:<44} {line(found)}")
        return 0


def line(found):
    """A result in a few words."""
    if "failed" in found:
        return "failed: " + found["failed"].splitlines()[0]
    told = found.get("report")
    if told is None:
        return ""
    real, simulated = told["makespan_ms"], told["simulated"]["makespan_ms"]
    return (f"{real:8.1f} ms, simulated {simulated:8.1f} ({100 * (simulated / real - 1):+6.1f} %), "
            f"{found['took_s']:.0f} s")
