"""A slow link between this machine's programs and one server: adds latency, limits the rate, needs root and /dev/net/tun.

    with Link(0.020, 100e6) as link:
        registry.address, registry.enter = link.address, link.enter

The server lives in a network namespace without a name, whose only way out is a pair of TUN devices; `relay`, a process between
them, holds every packet back for half the delay in each direction and lets through no more than the rate. What would wait
longer than QUEUE for its turn is dropped, as a router does. Not tc's netem, since many kernels are built without it.

Devices and namespace belong to processes of ours: when these end, however they end, nothing is left.
"""
import collections
import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

# linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454ca, 0x400454d0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 1, 2
VNET_HDR = 10
MTU, QUEUE = 1500, 0.050


def _tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    # segments are cut by nobody: both ends are the same kernel, and whole ones cost the relay a tenth
    fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return fd


class Link:
    """delay: seconds that a round trip takes longer. rate: bits a second, each way."""

    def __init__(self, delay, rate):
        self.delay, self.rate, self.children = delay, rate, []
        number = os.getpid() % 250
        self.near, self.address = f"10.213.{number}.1", f"10.213.{number}.2"
        self.devices = [f"rfsb{os.getpid()}{end}" for end in "ns"]

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._holder()
            fds = [_tun(name) for name in self.devices]
            for fd in fds:
                undo.callback(os.close, fd)
            near, far = self.devices
            self._run("ip", "link", "set", far, "netns", str(self.children[0].pid))
            for device, address, enter in (near, self.near, ()), (far, self.address, self.enter):
                self._run(*enter, "ip", "addr", "add", f"{address}/30", "dev", device)
                self._run(*enter, "ip", "link", "set", device, "mtu", str(MTU), "up")
            relay = [sys.executable, __file__, *map(str, fds), str(self.delay), str(self.rate)]
            self._start(*relay, pass_fds=fds)
            undo.pop_all()
        for fd in fds:
            os.close(fd)
        return self

    def __exit__(self, *_):
        self.close()

    def _start(self, *command, **kw):
        self.children.append(subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, **kw))

    def _holder(self):
        """A process that only keeps the namespace."""
        self._start("unshare", "--net", "sleep", "infinity")
        pid, mine = self.children[0].pid, os.readlink("/proc/self/ns/net")
        end = time.monotonic() + 10
        while os.readlink(f"/proc/{pid}/ns/net") == mine:
            assert self.children[0].poll() is None and time.monotonic() < end, "no network namespace"
            time.sleep(0.005)
        self.enter = ("nsenter", f"--net=/proc/{pid}/ns/net")

    @staticmethod
    def _run(*command):
        subprocess.run(command, check=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})

    def close(self):
        for child in reversed(self.children):
            child.kill()
            child.wait()
        self.children = []


class _Way:
    """Packets on their way in one direction."""

    def __init__(self, source, target, delay, rate):
        self.source, self.target, self.delay, self.rate = source, target, delay, rate
        self.waiting, self.free = collections.deque(), 0.0

    def take(self, now):
        for _ in range(64):
            try:
                packet = os.read(self.source, VNET_HDR + 65536)
            except BlockingIOError:
                return
            start = max(now, self.free)
            if start - now < QUEUE:
                self.free = start + len(packet) * 8 / self.rate
                self.waiting.append((self.free + self.delay, packet))

    def give(self, now):
        """Hands over what is due; the time until the next, or None."""
        while self.waiting and self.waiting[0][0] <= now:
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(self.target, self.waiting[0][1])
            self.waiting.popleft()
        return self.waiting[0][0] - now if self.waiting else None


def relay(one, other, delay, rate):
    # else it is the busy machine that is measured
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    ways = {one: _Way(one, other, delay / 2, rate), other: _Way(other, one, delay / 2, rate)}
    while True:
        now = time.monotonic()
        next_due = [t for t in (w.give(now) for w in ways.values()) if t is not None]
        ready, _, _ = select.select(list(ways), [], [], min(next_due) if next_due else None)
        now = time.monotonic()
        for fd in ready:
            ways[fd].take(now)


if __name__ == "__main__":
    relay(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
