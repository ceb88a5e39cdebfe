"""Engines as processes: starting them, asking them, and what they cost."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

from models import HERE

TILEHIVE = "tilehive"
TILEHIVE_FAST = "tilehive fast"
# Each layer over the whole map before the next: what going depth first is measured against.
TILEHIVE_LAYERS = "tilehive fast, layer by layer"
# What Tilehive wants to be level with: the fastest engines that people use.
PEERS = ["onnxruntime", "ncnn", "openvino"]
RUST_PEERS = ["tract", "rten"]
ALL = [TILEHIVE, TILEHIVE_FAST, *PEERS, *RUST_PEERS]

# A call of the largest model takes a second; a process that is silent for so long is stuck.
TIMEOUT_S = 300


class Refused(Exception):
    """An engine does not run a model, and says why."""


def command(engine: str, binaries: dict[str, pathlib.Path]) -> list[str]:
    match engine:
        case "tilehive":
            return [str(binaries["bench_engine"]), "serve", "exact"]
        case "tilehive fast":
            return [str(binaries["bench_engine"]), "serve", "fast"]
        case "tilehive fast, layer by layer":
            return [str(binaries["bench_engine"]), "serve", "fast", "layers"]
        case "tract" | "rten":
            return [str(binaries[f"peer_{engine}"])]
        case _:
            return [sys.executable, str(HERE / "serve.py"), engine]


class Process:
    """One engine, held to some cores."""

    def __init__(self, engine: str, cores: list[int], binaries: dict[str, pathlib.Path]):
        self.engine, self.cores = engine, cores
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))]
        self.complaints = tempfile.TemporaryFile()
        self.child = subprocess.Popen([*pinned, *command(engine, binaries)], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=self.complaints)

    def ask(self, *words) -> dict:
        """Sends a command and waits for its answer.

        Raises Refused when the engine says no, dies or falls silent.
        """
        late = threading.Timer(TIMEOUT_S, self.child.kill)
        late.start()
        try:
            self.child.stdin.write("\t".join(map(str, words)) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late.cancel()
        if not line:
            raise Refused(f"the process died: {self.last_words()}")
        answer = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer

    def last_words(self) -> str:
        self.child.wait()
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").strip().splitlines()
        told = [line for line in lines if "panicked" in line or "rror" in line]
        return (told or lines or [f"exit code {self.child.returncode}"])[-1][:200]

    @property
    def is_alive(self) -> bool:
        return self.child.poll() is None

    def peak_bytes(self) -> int:
        """The most memory that the process ever had resident."""
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def cpu_s(self) -> float:
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        self.child.stdout.close()
        self.child.wait()
        self.complaints.close()


def cores_busy_s(cores: list[int]) -> float:
    """How long these cores were busy for anybody since the machine began, stolen time included."""
    busy = 0
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in {f"cpu{core}" for core in cores}:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, ticks[:8])
            busy += user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK")
