"""A disk that is full, for the weights of one device."""

import os

from . import host
from .host import call

DISK_BYTES = 256_000_000


class Disk:
    """A small file system of its own, with what fills it beside the weights."""

    def __init__(self, state):
        self.folder = state / "disk"
        self.blobs = self.folder / "blobs"
        self.ballast = self.folder / "ballast"
        self.folder.mkdir()
        call("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tilehive-soak", self.folder)
        self.blobs.mkdir()
        (state / "blobs").symlink_to(self.blobs)

    def fill(self, left_bytes):
        """Leaves so much."""
        room = os.statvfs(self.folder)
        count = room.f_bavail * room.f_frsize - left_bytes
        if count > 0:
            with open(self.ballast, "ab") as out:
                os.posix_fallocate(out.fileno(), out.tell(), count)

    def free(self):
        """Takes the ballast away."""
        self.ballast.unlink(missing_ok=True)

    def empty(self):
        """Takes everything away."""
        self.free()
        for entry in self.blobs.iterdir():
            entry.unlink()

    def unmount(self):
        """Whoever has files open there loses their names alone."""
        host.works("umount", "--lazy", self.folder)
