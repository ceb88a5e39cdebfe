"""CPU quotas and memory limits: a cgroup of version 1 for each worker."""

import os
import time

from .host import CPU_GROUPS, MEMORY_GROUPS, PREFIX

# What a worker takes beside feature maps and weights.
PROCESS_MB = 64


class Groups:
    """The cgroups of one lab."""

    def __init__(self, pid):
        self.name = f"{PREFIX}-{pid}"
        self.parents = [root / self.name for root in (CPU_GROUPS, MEMORY_GROUPS)]

    def start(self):
        """Makes the folders that hold those of the workers."""
        for parent in self.parents:
            parent.mkdir(exist_ok=True)

    def add(self, worker, memory_mb):
        """A group for a worker, without a limit of its time."""
        cpu, memory = (parent / f"w{worker}" for parent in self.parents)
        for folder in (cpu, memory):
            folder.mkdir()
        limit = round((memory_mb + PROCESS_MB) * 1e6)
        (memory / "memory.limit_in_bytes").write_text(str(limit))

    def limit(self, worker, quota_us, period_us):
        """Sets a worker's CPU time; the quota first falls, so that no state in between is refused."""
        cpu = self.parents[0] / f"w{worker}"
        (cpu / "cpu.cfs_quota_us").write_text("-1")
        (cpu / "cpu.cfs_period_us").write_text(str(period_us))
        (cpu / "cpu.cfs_quota_us").write_text(str(quota_us))

    def enter(self, worker):
        """Puts the calling process into a worker's groups; runs between fork and exec."""
        for parent in self.parents:
            (parent / f"w{worker}" / "cgroup.procs").write_text(str(os.getpid()))

    def cpu_s(self, worker):
        """CPU time that a worker used, where the kernel tells."""
        try:
            text = (self.parents[0] / f"w{worker}" / "cpu.stat").read_text()
        except OSError:
            return {}
        return dict((key, int(value)) for key, value in (line.split() for line in text.splitlines()))

    def stop(self):
        """Removes the groups, whose processes have ended."""
        for parent in self.parents:
            for folder in sorted(parent.glob("w*")) if parent.exists() else []:
                remove(folder)
            remove(parent)


def remove(folder):
    """Removes one group; its processes may take a moment to be gone."""
    for _ in range(50):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
