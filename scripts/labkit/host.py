"""What the lab needs of this machine: root, kernel features, programs, a folder of its own."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "tilehive-lab"
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


class LabError(Exception):
    """Something that the person can mend: a cause and a hint."""

    def __init__(self, cause, hint=None, status=1):
        super().__init__(cause)
        self.hint = hint
        self.status = status


def target():
    """Where cargo builds, and where the lab keeps what it may keep."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def own_folder():
    """What the lab keeps between runs: this machine's speed, weights, raw results."""
    folder = target() / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def program(name):
    """One of the three programs, built for release."""
    path = target() / "release" / name
    if not path.is_file():
        raise LabError(f"{path} is missing", "cargo build --release --bins")
    return path


def settle_programs():
    """`tilehive run --workers` shall not build a worker of its own, in the middle of a measurement."""
    os.environ["TILEHIVE_WORKER"] = str(program("tilehive-worker"))


def programs_hash():
    """Names what was measured: a result of other programs is another result."""
    digest = hashlib.sha256()
    for name in ("tilehive", "tilehive-worker"):
        digest.update(program(name).read_bytes())
    return digest.hexdigest()[:16]


def call(*command, check=True, timeout=None):
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout
    )
    if check and done.returncode != 0:
        shown = " ".join(str(part) for part in command)
        raise LabError(f"`{shown}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def works(*command):
    """Whether a command ends well."""
    return subprocess.run(command, capture_output=True).returncode == 0


def check():
    """Refuses, naming what is missing and what to do about it, before anything is changed."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and cgroups: it must run as root",
                       "sudo scripts/lab ...", status=2)
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise LabError(f"`{tool}` is missing", "sudo apt install iproute2", status=2)
    for folder, wanted in ((CPU_GROUPS, "cpu.cfs_quota_us"), (MEMORY_GROUPS, "memory.limit_in_bytes")):
        if not (folder / wanted).exists() and not (folder / "cgroup.procs").exists():
            raise LabError(
                f"{folder} is no cgroup of version 1",
                "start the machine with systemd.unified_cgroup_hierarchy=0, or mount it: "
                f"mount -t cgroup -o {folder.name} none {folder}", status=2)
    trial = f"{PREFIX}-{os.getpid()}-trial"
    try:
        if not works("ip", "netns", "add", trial):
            raise LabError("network namespaces are refused here",
                           "a container needs the right to make them (CAP_SYS_ADMIN)", status=2)
        if not works("ip", "-n", trial, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"):
            raise LabError("this kernel has no virtual cables", "modprobe veth", status=2)
        if not works("tc", "-n", trial, "qdisc", "add", "dev", "eth0", "root", "tbf",
                     "rate", "1mbit", "burst", "5kb", "latency", "50ms"):
            raise LabError("this kernel cannot shape links", "modprobe sch_tbf", status=2)
        if not works("ip", "-n", trial, "link", "add", "br0", "type", "bridge"):
            raise LabError("this kernel has no bridges", "modprobe bridge", status=2)
    finally:
        works("ip", "netns", "del", trial)


def has_air():
    """Whether Wi-Fi can be emulated: an ifb with one htb class for both directions."""
    trial = f"{PREFIX}-{os.getpid()}-air"
    try:
        return (works("ip", "netns", "add", trial)
                and works("ip", "-n", trial, "link", "add", "ifb0", "type", "ifb")
                and works("tc", "-n", trial, "qdisc", "add", "dev", "ifb0", "root", "handle", "1:",
                          "htb", "default", "1"))
    finally:
        works("ip", "netns", "del", trial)


def is_running(pid):
    """Whether a lab of that process id still runs; ids are used again by others."""
    try:
        return b"labkit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def say(text):
    """Talk goes to stderr, data to stdout."""
    print(text, file=sys.stderr, flush=True)
