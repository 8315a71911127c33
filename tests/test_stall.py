"""A registry that stops answering holds up nobody but those who wait for it: the promise of DESIGN.md 5.

40 processes wait for 40 different blobs that do not come. What is cached is answered as if nothing were wrong, signals end
a waiting process at once, and the mount can be taken away.

The bound of 10 ms is for a build without sanitizers; with them it is 40 ms. Other work on the machine can delay any
single call, so a round of several hundred calls is measured up to six times, and one round has to be good throughout.
"""
import errno
import hashlib
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time

import pytest

from lib import faults
from lib.images import Image, Layer, file
from lib.rfs import is_mounted, program

SANITIZED = any(s in pathlib.Path(program()).read_bytes() for s in (b"__asan_init", b"__tsan_init"))
BOUND = 0.040 if SANITIZED else 0.010
AT_ONCE = 0.5
READERS = 40
FILES = 2500


def content(i):
    return hashlib.shake_256(b"stall%d" % i).digest(150_000)


CACHED = Image([Layer([file(f"f/{i:04}", f"file {i}\n" * 50) for i in range(FILES)])])
STALLED = [Image([Layer([file("data", content(i))])]) for i in range(READERS)]


class Stall:
    """A mount with an image that is cached, and READERS repositories whose layers do not come until .gate is set."""

    def __init__(self, reg, m, action):
        self.reg, self.m, self.gate = reg, m, threading.Event()
        self.root = m.path / "cached/1.0/rootfs"
        self.fresh = iter(range(FILES))
        assert len(os.listdir(self.root / "f")) == FILES
        (self.root / f"f/{next(self.fresh):04}").read_bytes()
        for i in range(READERS):                         # only the data is missing
            os.stat(m.path / f"s{i}/1.0")
        for i, image in enumerate(STALLED):
            self.reg.fault("GET", image.layers[0].digest, action(self.gate), times=None)
        self.children = []

    def path(self, i):
        return self.m.path / f"s{i}/1.0/rootfs/data"

    def spawn(self, *command):
        p = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.children.append(p)
        return p

    def cat_all(self):
        """READERS processes that wait; returns when they do."""
        cats = [self.spawn("cat", self.path(i)) for i in range(READERS)]
        self.until(lambda: self.waiting() >= READERS)
        assert all(c.poll() is None for c in cats)
        return cats

    def waiting(self):
        return self.m.stats()["fuse_parked"]

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.m.log[-2000:], "did not happen")
            time.sleep(0.02)

    def end(self):
        self.gate.set()
        for c in self.children:
            if c.poll() is None:
                c.kill()
            c.communicate()


@pytest.fixture
def stall(make_fakereg, mount):
    """stall(action=faults.stall, options=..) -> Stall"""
    made = []

    def make(action=faults.stall, options="", **kw):
        reg = make_fakereg()
        reg.add("cached", CACHED, "1.0")
        for i, image in enumerate(STALLED):
            reg.add(f"s{i}", image, "1.0")
        m = mount(reg.url, options=options or (), **kw)
        made.append(Stall(reg, m, action))
        return made[-1]
    yield make
    for s in made:
        s.end()


def round_of(call, n=300):
    times = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def quick(call, n=300):
    """One of six rounds has no call above BOUND; the medians all are far below."""
    worst = []
    for _ in range(6):
        times = round_of(call, n)
        assert statistics.median(times) < BOUND / 2, statistics.median(times)
        worst.append(max(times))
        if worst[-1] < BOUND:
            return
    raise AssertionError(f"the slowest calls of six rounds took {[f'{t * 1000:.1f} ms' for t in worst]}")


def body_stall(gate):
    return faults.stall_body(1000, gate)


@pytest.mark.parametrize("action", [faults.stall, body_stall])
def test_what_is_cached_answers_within_10_ms_while_40_reads_are_stalled(stall, action):
    s = stall(action)
    s.cat_all()
    before = s.m.stats()["fuse_ops"]
    asked = 0

    def first_stat_and_cat():                            # of a file nobody has looked at: the kernel must ask
        nonlocal asked
        asked += 1
        path = s.root / f"f/{next(s.fresh):04}"
        os.stat(path)
        assert path.read_bytes().startswith(b"file ")
    quick(first_stat_and_cat)
    quick(lambda: os.stat(s.m.path / ".control/info.json"))
    quick(lambda: os.statvfs(s.m.path))
    quick(lambda: os.stat(s.root / "f/0001"))
    assert s.m.stats()["fuse_ops"] - before >= 2 * asked
    assert s.waiting() >= READERS
    assert len(os.listdir(s.root)) == 1 and (s.m.path / "cached/1.0/digest").read_text().strip() == CACHED.digest


def test_the_daemon_answers_everything_while_40_reads_are_stalled(stall):
    """Also what needs the registry, as long as that is something else than blobs."""
    s = stall()
    s.cat_all()
    start = time.monotonic()
    for path in (".control/info.json", ".control/metrics", ".control/config", ".control/errors", "s1/1.0/manifest.json", "s2/1.0/digest"):
        assert (s.m.path / path).read_bytes() is not None
    (s.m.path / ".control/refresh").write_text("1")
    assert os.listdir(s.m.path / "s3") == ["1.0"]
    assert len(os.listdir(s.m.path)) == READERS + 1
    assert not (s.m.path / "s3/none").exists()
    assert s.m.run("status").returncode == 0
    assert time.monotonic() - start < 5
    assert s.waiting() >= READERS


def test_all_40_reads_are_right_when_the_stall_ends(stall):
    s = stall()
    cats = s.cat_all()
    s.gate.set()
    for i, c in enumerate(cats):
        out, _ = c.communicate(timeout=60)
        assert c.returncode == 0 and out == content(i), i
    assert s.m.stats()["fuse_errors"] == 0 and s.waiting() == 0


WAITERS = {
    "read": lambda s: s.spawn("cat", s.path(0)),
    "readdir": lambda s: s.spawn("ls", "-f", s.m.path / "s1/1.0/rootfs"),
    "lookup": lambda s: s.spawn("stat", s.m.path / "s2/1.0/rootfs/data"),
    "tag": lambda s: s.spawn("stat", s.m.path / "cached/absent"),
    "listing": lambda s: s.spawn("ls", s.m.path / "cached"),
}


@pytest.mark.parametrize("what,sig", [(w, s) for w in WAITERS for s in ("INT", "KILL")] + [("read", s) for s in ("TERM", "QUIT", "HUP")])
def test_a_signal_ends_whoever_waits_at_once(stall, what, sig):
    s = stall()
    if what in ("tag", "listing"):
        s.reg.fault("*", "cached/(manifests|tags)", faults.stall(s.gate), times=None)
        (s.m.path / ".control/refresh").write_text("1")
        time.sleep(0.1)
    p = WAITERS[what](s)
    s.until(lambda: s.waiting() == 1)
    time.sleep(0.1)
    assert p.poll() is None
    number = getattr(signal, "SIG" + sig)
    start = time.monotonic()
    p.send_signal(number)
    p.wait(10)
    took = time.monotonic() - start
    assert took < AT_ONCE, f"{took:.2f} s"
    assert p.returncode == -number
    s.until(lambda: s.waiting() == 0, 5)
    assert s.m.stats()["fuse_interrupted"] >= 1
    if what not in ("tag", "listing"):                   # there the tag itself waits for the registry
        assert (s.root / "f/0002").read_bytes()


def test_kill_9_of_40_readers_at_once_leaves_nothing_waiting(stall):
    s = stall()
    cats = s.cat_all()
    start = time.monotonic()
    for c in cats:
        c.kill()
    for c in cats:
        c.wait(10)
    assert time.monotonic() - start < 2
    s.until(lambda: s.waiting() == 0, 5)
    s.gate.set()
    s.reg.clear_faults()
    s.until(lambda: s.m.stats()["http_active"] == 0, 10)
    assert s.path(7).read_bytes() == content(7)


def test_one_reader_that_leaves_does_not_end_the_read_of_another(stall):
    s = stall()
    a, b = s.spawn("cat", s.path(0)), s.spawn("cat", s.path(0))
    s.until(lambda: s.waiting() >= 1)
    time.sleep(0.3)
    a.send_signal(signal.SIGINT)
    a.wait(5)
    s.gate.set()
    out, _ = b.communicate(timeout=30)
    assert b.returncode == 0 and out == content(0)


ALARMED = """
import ctypes, os, signal, sys
hits = 0
def tick(*_):
    global hits
    hits += 1
signal.signal(signal.SIGALRM, tick)
signal.siginterrupt(signal.SIGALRM, {interrupt})
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
libc = ctypes.CDLL(None, use_errno=True)
libc.open.restype = ctypes.c_int
fd = libc.open(sys.argv[1].encode(), os.O_RDONLY)
if fd < 0:
    sys.exit("open: " + os.strerror(ctypes.get_errno()))
buf, out = ctypes.create_string_buffer(65536), b""
while True:
    n = libc.read(fd, buf, 65536)
    if n < 0:
        sys.exit("read: " + os.strerror(ctypes.get_errno()))
    if n == 0:
        break
    out += buf.raw[:n]
signal.setitimer(signal.ITIMER_REAL, 0)
sys.stdout.buffer.write(out)
print(hits, file=sys.stderr)
"""


@pytest.mark.parametrize("interrupt", [False, True])
def test_a_handled_signal_does_not_break_a_read(stall, interrupt):
    """Timers of git and Go: EINTR without their asking for it is a failed read (style.md F9)."""
    s = stall()
    p = s.spawn(sys.executable, "-c", ALARMED.format(interrupt=interrupt), s.path(3))
    s.until(lambda: s.waiting() >= 1)
    time.sleep(1.5)
    assert p.poll() is None, p.communicate()
    s.gate.set()
    out, err = p.communicate(timeout=30)
    assert p.returncode == 0 and out == content(3), err
    # and a fatal signal after all those still ends it
    s.reg.clear_faults()


def test_a_fatal_signal_after_a_handled_one_still_ends_the_read(stall):
    s = stall()
    p = s.spawn(sys.executable, "-c", ALARMED.format(interrupt=False), s.path(4))
    s.until(lambda: s.waiting() >= 1)
    time.sleep(0.5)
    start = time.monotonic()
    p.kill()
    p.wait(10)
    assert time.monotonic() - start < AT_ONCE


# ---- taking the mount away

def all_end(cats, seconds=10):
    end = time.monotonic() + seconds
    for c in cats:
        c.wait(max(0.1, end - time.monotonic()))
        assert c.returncode != 0


@pytest.mark.parametrize("how", ["registryfs umount", "SIGTERM", "SIGINT", "fusermount3 -uz"])
def test_the_mount_goes_within_seconds_while_40_reads_are_stalled(stall, how):
    s = stall(clean=how != "fusermount3 -uz")
    cats = s.cat_all()
    start = time.monotonic()
    if how == "registryfs umount":
        p = s.m.run("umount", s.m.path)
        if p.returncode != 0:                            # "busy", with the way out, is an honest answer too; kill them
            assert "busy" in p.stderr + p.stdout or "use" in p.stderr + p.stdout, p
            assert time.monotonic() - start < 15
            for c in cats:
                c.kill()
            all_end(cats)
            start = time.monotonic()
            p = s.m.run("umount", s.m.path)
            assert p.returncode == 0, p
    elif how.startswith("SIG"):
        os.kill(s.m.pid, getattr(signal, how))
    else:
        subprocess.run(["fusermount3", "-uz", s.m.path], check=True, capture_output=True)
        for c in cats:
            c.kill()
    assert s.m.wait(10) is not None or not s.m.alive(), "the daemon does not end"
    assert time.monotonic() - start < 10
    assert not is_mounted(s.m.path)
    all_end(cats)
    if how != "fusermount3 -uz":
        assert s.m.status == 0


def test_kill_9_of_the_daemon_leaves_enotconn_and_a_new_mount_replaces_it(stall):
    s = stall(clean=False)
    cats = s.cat_all()
    start = time.monotonic()
    os.kill(s.m.pid, signal.SIGKILL)
    all_end(cats)
    assert time.monotonic() - start < 5
    for call, path in ((os.listdir, ""), (os.stat, "never/asked"), (os.listdir, "s1"), (os.statvfs, "")):
        with pytest.raises(OSError) as e:                # stat alone may be answered from the kernel's cache for a while
            call(s.m.path / path)
        assert e.value.errno == errno.ENOTCONN, "a crash must never look like an empty directory"
    s.m.wait(5)
    s.gate.set()
    s.reg.clear_faults()
    s.m.start()                                          # over its own stale mount
    assert len(os.listdir(s.m.path)) == READERS + 1
    assert s.path(5).read_bytes() == content(5)
    assert (s.root / "f/0001").read_bytes() == b"file 1\n" * 50
    assert sum(line.split()[4] == str(s.m.path) for line in open("/proc/self/mountinfo")) == 1


# ---- deadlines

def test_40_reads_of_a_registry_that_never_answers_end_with_etimedout(stall):
    s = stall(options="timeout=2,transfers=40")
    start = time.monotonic()
    cats = [s.spawn("cat", s.path(i)) for i in range(READERS)]
    for c in cats:
        _, err = c.communicate(timeout=30)
        assert c.returncode == 1 and b"timed out" in err, err
    assert 1.5 < time.monotonic() - start < 12
    assert "sent nothing for 2 seconds" in (s.m.path / ".control/errors").read_text()
    s.gate.set()
    s.reg.clear_faults()
    time.sleep(2.2)
    assert s.path(9).read_bytes() == content(9)


def test_a_mount_of_a_registry_that_never_answers_fails_within_30_seconds(make_fakereg):
    from lib.rfs import Mount
    reg = make_fakereg()
    gate = threading.Event()
    reg.fault("*", ".", faults.stall(gate), times=None)
    m = Mount(reg.url, options="timeout=2", clean=False)
    start = time.monotonic()
    try:
        with pytest.raises(AssertionError) as e:
            m.start()
        assert "sent nothing for 2 seconds" in str(e.value), e.value
        assert time.monotonic() - start < 10
    finally:
        gate.set()
        m._remove()


def test_a_transfer_that_only_trickles_in_the_middle_is_waited_for(stall):
    """Progress is what counts, not the time in all."""
    s = stall(action=lambda gate: faults.slow(60_000), options="timeout=1,tag_ttl=30")
    start = time.monotonic()
    assert s.path(11).read_bytes() == content(11)
    assert time.monotonic() - start > 1.5
