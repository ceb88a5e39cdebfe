"""The `tilehive` binary as the oracles see it: one process a run, away from the user's cluster."""

import dataclasses
import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def default_path() -> pathlib.Path:
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "tilehive"


@dataclasses.dataclass
class Ended:
    """How a process ended; the code is None where the time was over."""

    code: int | None
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """What it complained about, on one line."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        if self.code is None:
            return f"timeout, after {lines[-1] if lines else 'not a word'}"
        told = [line for line in lines if line.startswith("error:") or "panicked" in line]
        return (told or lines or [f"exit code {self.code} without a word"])[0]


class Tilehive:
    """Runs the binary with its state in a folder of ours."""

    def __init__(self, binary: pathlib.Path, state: pathlib.Path):
        self.binary, self.state = binary, state

    def __call__(self, *arguments, timeout_s: float) -> Ended:
        command = [self.binary, "--state", self.state, *arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TILEHIVE_")}
        # The worker beside it, as it is: to find one that is older than itself the binary would
        # build it, which a run must not wait for.
        worker = self.binary.with_name("tilehive-worker")
        environment |= {"NO_COLOR": "1", "TILEHIVE_WORKER": str(worker)}
        try:
            done = subprocess.run([str(a) for a in command], capture_output=True, text=True,
                                  errors="replace", timeout=timeout_s, env=environment,
                                  stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as late:
            # What it said so far comes as bytes, whatever was asked for.
            return Ended(None, "", (late.stderr or b"").decode(errors="replace"))
        return Ended(done.returncode, done.stdout, done.stderr)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns, the first aligned left and the others right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def reason(error: str) -> str:
    """An error without what is particular to one file, so that equal causes read the same."""
    error = re.sub(r"^error: ", "", error)
    error = re.sub(r"^\S*\.onnx: ", "", error)
    error = re.sub(r'layer "[^"]*"(:| )\s*', "", error)
    error = re.sub(r'^tensor "[^"]*": (.*), got [A-Z]+[0-9]*$', r"inputs: \1, got another type", error)
    return re.sub(r"(?<=got )\[(\d+(?:, \d+)*)\]$", lambda m: f"{len(m[1].split(','))} dims", error)
