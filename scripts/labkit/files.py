"""The files of the simulator, as the lab reads them: scenario, cluster, device, link."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from .host import ROOT, LabError

# What the simulator takes; anything else is a mistake of the person, and said to be one.
SCENARIO_KEYS = {
    "model", "input_size", "cluster", "frames", "frame_interval_ms", "weights_cached", "start_s",
    "strategy", "grid", "fused_layers", "handover", "wire", "weights", "objective", "seed", "stealing",
    "frames_in_flight", "window_tasks", "spot_checks_per_mille", "patience_s", "fault",
}
CLUSTER_KEYS = {"name", "coordinator", "worker"}
WORKER_KEYS = {
    "device", "link", "count", "name", "threads", "memory_mb", "access_point", "joins_s",
}
FAULT_KEYS = {"at_s", "kind", "device", "other", "times", "for_s", "back_after_s"}
FAULTS = {
    "crash": [], "power-loss": [], "leave": [], "slow-down": ["times"], "stall": ["for_s"],
    "cut": ["other"], "isolate": ["for_s"],
}
# What only a simulator can do, with the reason.
NOT_REAL = {
    "hang": "a real worker that answers and never ends its computing cannot be had from outside",
    "restart-coordinator": "the coordinator is `tilehive run`, which ends with its frames",
}


@dataclass(frozen=True)
class Link:
    """How a device is connected; rates are goodput."""

    name: str
    medium: str
    send_mbit_per_s: float
    receive_mbit_per_s: float
    message_us: float
    airtime_fair: bool
    round_trip: dict


@dataclass(frozen=True)
class Worker:
    """One device of the cluster."""

    name: str
    device_path: Path
    device: dict
    link: Link
    access_point: int
    memory_mb: float
    joins_s: float


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at a time of the scenario."""

    at_s: float
    kind: str
    device: int
    other: int | None = None
    times: float | None = None
    for_s: float | None = None
    back_after_s: float | None = None


@dataclass(frozen=True)
class Scenario:
    """What is computed, by whom, and what goes wrong."""

    path: str
    model: str
    cluster: str
    coordinator: Link
    workers: list
    frames: int = 1
    frame_interval_ms: float = 0.0
    weights_cached: bool = True
    start_s: float = 2.0
    strategy: str = "deepthings"
    input_size: tuple | None = None
    grid: tuple | None = None
    fused_layers: int | None = None
    handover: str | None = None
    wire: str = "auto"
    weights: str = "f32"
    objective: str = "latency"
    seed: int = 1
    stealing: bool = True
    frames_in_flight: int = 4
    spot_checks_per_mille: int = 0
    patience_s: float = 3600.0
    faults: list = field(default_factory=list)


def find(kind, reference, beside=None):
    """The file of a reference: `./x` lies beside the file that names it, else a path or a name."""
    if reference.startswith("./") and beside is not None:
        path = beside / reference
    elif reference.endswith(".toml"):
        path = Path(reference)
    else:
        path = ROOT / "configs" / kind / f"{reference}.toml"
    if path.is_file():
        return path
    known = ", ".join(sorted(p.stem for p in (ROOT / "configs" / kind).glob("*.toml")))
    raise LabError(f"there is no file of {kind} called `{reference}`",
                   f"there are {known}; or give the path of a .toml file", status=2)


def read(path):
    """A TOML file as it stands."""
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LabError(f"{path} is not sound: {error}", status=2) from error


def known(what, table, keys):
    """Refuses keys that nobody reads."""
    unknown = sorted(set(table) - keys)
    if unknown:
        raise LabError(f"{what} has no key `{unknown[0]}`", f"there are {', '.join(sorted(keys))}",
                       status=2)


def need(what, table, key):
    """A value that must be there."""
    if key not in table:
        raise LabError(f"{what} lacks `{key}`", status=2)
    return table[key]


def link(reference, beside):
    """A link by reference."""
    path = find("links", reference, beside)
    table = read(path)
    medium = need(path, table, "medium")
    if medium not in ("wire", "half-duplex-wire", "air"):
        raise LabError(f"{path}: no medium is called `{medium}`", "wire, half-duplex-wire or air",
                       status=2)
    rates = [need(path, table, key) for key in ("send_mbit_per_s", "receive_mbit_per_s")]
    if min(rates) <= 0:
        raise LabError(f"{path}: rates must be positive", status=2)
    return Link(table["name"], medium, *rates, need(path, table, "message_us"),
                table.get("airtime_fair", False), need(path, table, "round_trip"))


def cluster(reference):
    """The coordinator's link and the workers, named as the simulator names them."""
    path = find("clusters", reference)
    table = read(path)
    known(path, table, CLUSTER_KEYS)
    head = link(need(path, need(path, table, "coordinator"), "link"), path.parent)
    workers = []
    for section in table.get("worker", []):
        known(f"a worker of {path}", section, WORKER_KEYS)
        device_path = find("devices", need(path, section, "device"), path.parent)
        device = read(device_path)
        base = section.get("name", section["device"])
        count = section.get("count", 1)
        for _ in range(count):
            alike = sum(1 for w in workers if w.name.startswith(base))
            name = f"{base}-{alike + 1}" if count > 1 or alike else base
            workers.append(Worker(
                name, device_path, device, link(need(path, section, "link"), path.parent),
                section.get("access_point", 0), section.get("memory_mb", device["memory_mb"]),
                section.get("joins_s", 0.0)))
    if not workers:
        raise LabError(f"the cluster {path} has no [[worker]]", status=2)
    if len(workers) > 200:
        raise LabError(f"the cluster {path} has {len(workers)} workers, and one machine emulates "
                       "200 at most", "simulate it: tilehive-sim run", status=2)
    return head, workers


def fault(section, workers):
    """A fault that can be done to real processes."""
    what = f"a fault at {section.get('at_s')} s"
    known(what, section, FAULT_KEYS)
    kind = need(what, section, "kind")
    if kind in NOT_REAL:
        raise LabError(f"{what}: the lab has no `{kind}`: {NOT_REAL[kind]}",
                       "simulate it: tilehive-sim run", status=2)
    if kind not in FAULTS:
        raise LabError(f"{what}: no fault is called `{kind}`", f"there are {', '.join(FAULTS)}",
                       status=2)
    for key in ["at_s", "device", *FAULTS[kind]]:
        need(what, section, key)
    for key in ("device", "other"):
        if section.get(key, 0) not in range(workers):
            raise LabError(f"{what} names {key} {section[key]}, and there are {workers} workers",
                           status=2)
    return Fault(**section)


def scenario(reference):
    """A scenario by name or path."""
    path = find("scenarios", reference)
    table = read(path)
    known(path, table, SCENARIO_KEYS)
    head, workers = cluster(need(path, table, "cluster"))
    faults = [fault(section, len(workers)) for section in table.pop("fault", [])]
    if table.pop("window_tasks", None) is not None:
        raise LabError(f"{path}: `window_tasks` cannot be set in the real program",
                       "leave it out", status=2)
    for key in ("grid", "input_size"):
        if key in table:
            table[key] = tuple(table[key])
    need(path, table, "model")
    return Scenario(path=str(reference), coordinator=head, workers=workers, faults=faults, **table)
