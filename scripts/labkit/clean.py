"""`scripts/lab clean`: removes what labs left behind that were killed."""

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from .groups import remove
from .host import CPU_GROUPS, MEMORY_GROUPS, PREFIX, call, is_running, say, works


def command(_options):
    """Removes namespaces, cgroups and folders of labs whose process is gone, and of no other."""
    named = re.compile(rf"{PREFIX}-(\d+)(-|$)")

    def is_left(name):
        match = named.match(name)
        return match is not None and not is_running(int(match[1]))

    removed = 0
    for root in (CPU_GROUPS, MEMORY_GROUPS):
        for folder in [f for f in root.glob(f"{PREFIX}-*") if is_left(f.name)]:
            for group in [*folder.glob("w*"), folder]:
                for pid in (group / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                remove(group)
            removed += 1
    for line in call("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if is_left(name):
            works("ip", "netns", "del", name)
            removed += 1
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}-[0-9]*"):
        if is_left(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    say(f"removed {removed} things of labs that are gone")
