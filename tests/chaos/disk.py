"""A disk that can lose its power: an ext4 image on a loop device, mounted for one node only.

It decides what a power cut is here: FS_IOC_SHUTDOWN without flushing the journal drops what was
not synced and makes every later call on the file system fail; mounting again shows what the platter
has. It proves the loss of what was not synced, not of a device that lies about its cache. The mount
lives in the node's own mount namespace and its loop device ends with it.
"""

import errno
import fcntl
import os
import signal
import struct
import time
from pathlib import Path

from tests.chaos.net import Network, sh

IMAGE_BYTES = 256 << 20     # sparse; a run writes a few megabytes
SHUTDOWN = 0x8004587D       # FS_IOC_SHUTDOWN
NO_LOG_FLUSH = 2            # FSOP_GOING_FLAGS_NOLOGFLUSH
FREEZE_S = 10.0             # until all threads of a process have stopped
UNMOUNT_S = 10.0
POLL_S = 0.002


class Disk:
    """The image of node i and its mount at `mount`, as the node's processes see it."""

    def __init__(self, network: Network, i: int, image: Path, mount: Path) -> None:
        self.network, self.i, self.image, self.path = network, i, image, mount
        mount.mkdir(parents=True)
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        sh("mkfs.ext4", "-q", "-F", str(image))
        self.mount()

    def mount(self) -> None:
        self.network.inside(self.i, "mount", "-o", "loop", str(self.image), str(self.path))

    @property
    def seen(self) -> str:
        """The mount from outside of its namespace."""
        return f"/proc/{self.network.keepers[self.i].pid}/root{self.path}"

    def shut_down(self) -> bool:
        """The power goes: returns whether the file system refuses everything from now on."""
        fd = os.open(self.seen, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)
        try:
            os.close(os.open(f"{self.seen}/probe", os.O_CREAT | os.O_WRONLY))
        except OSError as error:
            return error.errno == errno.EIO
        return False

    def come_back(self) -> None:
        """The power is there again. All processes that used the disk have ended."""
        deadline = time.monotonic() + UNMOUNT_S
        while True:
            try:
                self.network.inside(self.i, "umount", str(self.path))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
        while sh("losetup", "--associated", str(self.image)):
            if time.monotonic() > deadline:
                raise OSError(f"{self.image} keeps its loop device")
            time.sleep(POLL_S)
        self.mount()


def freeze(pid: int) -> None:
    """Stops every thread: one that is inside a sync when the power goes could be told that it
    succeeded although its data is gone. Returns when all have stopped."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + FREEZE_S
    while not stopped(pid):
        if time.monotonic() > deadline:
            raise OSError(f"process {pid} does not stop")
        time.sleep(POLL_S)


def stopped(pid: int) -> bool:
    """Have all threads stopped?"""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "stat").read_text().rpartition(")")[2].split()[0] not in "Tt":
            return False
    return True
