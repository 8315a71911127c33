"""What is kept on disk survives restarts, crashes, damage, full and broken disks, and never shows anybody wrong bytes."""
import errno
import fcntl
import hashlib
import os
import pathlib
import random
import shutil
import stat
import struct
import subprocess
import threading
import time

import pytest

from lib import faults, images
from lib.images import Image, Layer, directory, file, hardlink, push, symlink, whiteout, write_layout
from lib.rfs import Mount, below
from lib.treecmp import assert_same, run, snapshot, umoci_unpack


def noise(n, seed):
    return random.Random(seed).randbytes(n)


def layered(seed, layers=3, size=3 << 20):
    """Incompressible layers of some spans each, so that every part of the cache has something to keep."""
    out = []
    for i in range(layers):
        out.append(Layer([directory("./"), directory(f"l{i}"), file(f"l{i}/big", noise(size, f"{seed}{i}")), hardlink(f"l{i}/same", f"l{i}/big"),
                          symlink(f"l{i}/link", "big"), *(file(f"l{i}/f{n}", noise(n * 97, f"{seed}{i}{n}")) for n in range(40))],
                         compress=("gzip", "zstd", "none")[i % 3]))
    out.append(Layer([whiteout("l0/f3"), file("version", f"{seed}\n")]))
    return Image(out)


def expected_tree(image, tmp):
    """What umoci makes of it, which does not know zstd."""
    twin = Image([Layer(la.entries) for la in image.layers])
    write_layout(tmp / "expected-layout", {"1.0": twin})
    return snapshot(umoci_unpack(tmp / "expected-layout", "1.0", tmp / "expected"))


def check(mount, expected, tag="app/1.0"):
    assert_same(expected, snapshot(mount.path / tag / "rootfs"))


def cache_of(mount):
    return pathlib.Path(mount.env["XDG_CACHE_HOME"]) / "registryfs"


def objects(cache):
    return [f for f in cache.rglob("*") if f.is_file() and not f.is_symlink()]


def used(directory):
    """What du says, in bytes; files may go while it looks."""
    p = subprocess.run(["du", "-sk", directory], capture_output=True, text=True)
    return int(p.stdout.split()[0]) * 1024


def errno_of(call, *args):
    try:
        call(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return None


# ---- nothing is fetched twice

def test_a_restart_asks_for_no_blob_again(fakereg, tmp_path, mount):
    image = layered("restart")
    fakereg.add("app", image, "1.0")
    expected = expected_tree(image, tmp_path)
    m = mount(fakereg.url)
    check(m, expected)
    (m.path / "app/1.0/config.json").read_bytes()
    assert [(m.path / f"app/1.0/layers/0{i}.{s}").read_bytes() == image.layers[i].blob
            for i, s in enumerate(("tar.gz", "tar.zst", "tar", "tar.gz"))] == [True] * 4
    first = fakereg.count("blob_get")
    assert first <= 2 * len(image.layers) + 1, fakereg.dump()      # once for the tree, once for the exact bytes
    for how in ("umount", "kill9"):
        getattr(m, how)()
        fakereg.reset()
        m.start()
        check(m, expected)
        (m.path / "app/1.0/config.json").read_bytes()
        (m.path / "app/1.0/history.txt").read_bytes()
        (m.path / "app/1.0/layers/01.tar.zst").read_bytes()
        assert fakereg.count("blob_get") == 0 and fakereg.count("manifest_get") == 0, fakereg.dump()
        assert fakereg.count() <= 4, fakereg.dump()


def test_another_tag_asks_for_its_own_layers_alone(fakereg, tmp_path, mount):
    one = layered("shared")
    two = Image([*one.layers[:3], Layer([file("version", "two\n")])])
    fakereg.add("app", one, "1.0")
    fakereg.add("app", two, "2.0")
    fakereg.add("other", one, "1.0")
    m = mount(fakereg.url)
    check(m, expected_tree(one, tmp_path / "a"))
    fakereg.reset()
    check(m, expected_tree(two, tmp_path / "b"), "app/2.0")
    got = {r.path.rsplit("/", 1)[1] for r in fakereg.requests(kind="blob_get")}
    assert got <= {two.layers[3].digest, images.sha256(two.config)} and fakereg.count("blob_get") == len(got), fakereg.dump()
    fakereg.reset()
    check(m, expected_tree(one, tmp_path / "c"), "other/1.0")       # another repository: asked whether it may, not for bytes
    assert fakereg.count("blob_get") == 0, fakereg.dump()
    assert fakereg.requests("/other/manifests/"), fakereg.dump()


def test_real_registries_are_asked_once(registry28, proxy, tmp_path, mount):
    image = layered("real")
    push(registry28.url, "cache/app", "1.0", image)
    p = proxy(registry28.url)
    m = mount(p.url)
    expected = expected_tree(image, tmp_path)
    check(m, expected, "cache/app/1.0")
    m.umount()
    p.reset()
    m.start()
    check(m, expected, "cache/app/1.0")
    assert p.count("blob_get") == 0 and p.count("manifest_get") == 0, p.dump()


# ---- crashes

def crash_rounds(rounds, reg, image, tmp_path, seed):
    """Kills a daemon at random points of reading, then checks everything with the cache it left."""
    rnd, expected = random.Random(seed), expected_tree(image, tmp_path)
    keep = tmp_path / "keep"
    reg.fault("GET", "/blobs/", faults.slow(24 << 20), times=None)
    reads = (["tar", "-C", "app/1.0/rootfs", "-cf", "/dev/null", "."], ["cat", "app/1.0/layers/00.tar.gz"], ["cat", "app/.tar/1.0.tar"],
             ["cat", "app/1.0/rootfs/l2/big", "app/1.0/rootfs/l0/f7"], ["find", ".", "-ls"])
    for i in range(rounds):
        m = Mount(reg.url, options="tag_ttl=1", keep=keep, clean=False)
        try:
            m.start()
            ps = [subprocess.Popen(c, cwd=m.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                  for c in rnd.sample(reads, rnd.randint(1, 3))]
            time.sleep(rnd.choice((0.02, 0.1, 0.3, 0.8)) * rnd.random())
            m.kill9()
            for p in ps:
                p.wait(20)
            again = Mount(reg.url, options="tag_ttl=1", keep=keep)
            again.start()
            try:
                check(again, expected)
                for n, la in enumerate(image.layers):
                    blob = next((again.path / "app/1.0/layers").glob(f"0{n}.*"))
                    assert hashlib.sha256(blob.read_bytes()).hexdigest() == la.digest[7:]
            finally:
                problems = again.finish()
            assert not problems, problems
            assert not list(keep.glob("sanitizer*")), list(keep.glob("sanitizer*"))[0].read_text()
        finally:
            m.finish()
        cache = keep / "cache" / "registryfs"
        left = [f for f in objects(cache) if "tmp" in f.name.lower() or f.name.startswith(".")]
        assert len(left) <= 2, left                          # what a crash leaves unfinished is swept up
        if rnd.random() < 0.7:
            shutil.rmtree(cache)


def test_kill_9_at_random_points_leaves_a_cache_that_shows_the_truth(fakereg, tmp_path):
    crash_rounds(10, fakereg, _crash_image(fakereg), tmp_path, 1)


@pytest.mark.long
def test_kill_9_a_hundred_times(fakereg, tmp_path):
    crash_rounds(100, fakereg, _crash_image(fakereg), tmp_path, 2)


def _crash_image(reg):
    image = layered("crash", size=5 << 20)
    reg.add("app", image, "1.0")
    return image


# ---- limits

class Watch:
    """The most that was on a file system of its own, asked all the time. Not `du`, which adds up files one after the other:
    what goes and what comes while it looks counts twice."""

    def __init__(self, path):
        self.path, self.most, self.ends = path, 0, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        while not self.ends.wait(0.005):
            self.most = max(self.most, self.now())

    def now(self):
        st = os.statvfs(self.path)
        return (st.f_blocks - st.f_bfree) * st.f_frsize

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()
        self.most = max(self.most, self.now())


@pytest.fixture
def small_disk(tmp_path):
    """small_disk("12M") -> a directory that is a file system of its own (tmpfs), gone with the test."""
    made = []

    def make(size):
        d = tmp_path / f"disk{len(made)}"
        d.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", d)
        made.append(d)
        return d
    yield make
    for d in made:
        subprocess.run(["umount", "-l", d], check=True)


def many_images(reg, n, size=4 << 20):
    out = {}
    for i in range(n):
        data = noise(size, f"many{i}")
        reg.add("app", Image([Layer([file("data", data)], compress="gzip" if i % 2 else "none")]), f"t{i:02}")
        out[f"t{i:02}"] = hashlib.sha256(data).digest()
    return out


def read_all(m, want, rnd, rounds=1):
    for _ in range(rounds):
        for tag in rnd.sample(sorted(want), len(want)):
            assert hashlib.sha256((m.path / "app" / tag / "rootfs/data").read_bytes()).digest() == want[tag], tag


def test_the_cache_limit_holds_under_a_working_set_twice_its_size(fakereg, mount, small_disk):
    want, limit, disk = many_images(fakereg, 16), 32 << 20, small_disk("512M")
    m = mount(fakereg.url, options=f"cache_size=32M,cache_free=1M,cache={disk}/cache")
    with Watch(disk) as w:
        read_all(m, want, random.Random(1), rounds=2)
        for tag in list(want)[:8]:
            next((m.path / "app" / tag / "layers").glob("00.*")).read_bytes()
        read_all(m, want, random.Random(2))
    assert w.most <= limit, f"{w.most / 2**20:.1f} MiB"
    assert w.most > limit // 2
    assert m.stats()["cache_evicted_bytes"] > 0
    m.umount()
    m.start()
    with Watch(disk) as w:
        read_all(m, want, random.Random(3))
    # prefetch and a reader can bring the same piece at once: the copy that loses is there until it is closed
    assert w.most <= limit + (4 << 20), f"{w.most / 2**20:.1f} MiB"


def test_one_image_larger_than_the_cache_is_read_right(fakereg, tmp_path, mount, small_disk):
    image = layered("large", layers=6, size=9 << 20)
    fakereg.add("app", image, "1.0")
    disk, expected = small_disk("512M"), expected_tree(image, tmp_path)
    m = mount(fakereg.url, options=f"cache_size=16M,cache_free=1M,cache={disk}/cache")
    with Watch(disk) as w:
        check(m, expected)
        check(m, expected)
    assert w.most <= 16 << 20, f"{w.most / 2**20:.1f} MiB"


def test_two_daemons_share_a_cache_and_its_limit(fakereg, mount, small_disk):
    want, cache = many_images(fakereg, 12), small_disk("512M") / "shared"
    a = mount(fakereg.url, options=f"cache={cache},cache_size=28M,cache_free=1M")
    b = mount(fakereg.url, options=f"cache={cache},cache_size=28M,cache_free=1M")
    with Watch(cache.parent) as w:
        errors = []

        def work(m, seed):
            try:
                read_all(m, want, random.Random(seed), rounds=2)
            except Exception as e:
                errors.append(e)
        threads = [threading.Thread(target=work, args=(m, i)) for i, m in enumerate((a, b))]
        for t in threads:
            t.start()
        for t in threads:
            t.join(300)
        assert errors == []
    # each sees a moment later what the other has added; then both are held
    assert w.most <= 2 * (28 << 20), f"{w.most / 2**20:.1f} MiB"
    end = time.monotonic() + 20
    while used(cache) > 28 << 20 and time.monotonic() < end:
        time.sleep(0.5)
        read_all(a, dict(list(want.items())[:1]), random.Random(0))
    assert used(cache) <= 28 << 20, f"{used(cache) / 2**20:.1f} MiB"


def test_what_one_daemon_fetched_the_other_does_not_ask_for(fakereg, tmp_path, mount):
    image, cache = layered("both"), tmp_path / "shared"
    fakereg.add("app", image, "1.0")
    a = mount(fakereg.url, options=f"cache={cache}")
    b = mount(fakereg.url, options=f"cache={cache}")
    expected = expected_tree(image, tmp_path)
    check(a, expected)
    fakereg.reset()
    check(b, expected)
    assert fakereg.count("blob_get") == 0 and fakereg.count("manifest_get") == 0, fakereg.dump()
    a.kill9()
    check(b, expected)


# ---- disks that fail

@pytest.fixture
def breakable_disk(tmp_path):
    """A directory on an ext4 of its own, and a function after which every access to it is EIO."""
    image, d = tmp_path / "disk.img", tmp_path / "ext4"
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices here (a container)")
    d.mkdir()
    with open(image, "wb") as f:
        f.truncate(192 << 20)
    run("mkfs.ext4", "-q", "-O", "^has_journal", image)
    run("mount", "-o", "loop", image, d)
    os.chmod(d, 0o700)

    def destroy():
        fd = os.open(d, os.O_RDONLY)
        fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 1))          # EXT4_IOC_SHUTDOWN
        os.close(fd)
    yield d, destroy
    subprocess.run(["umount", "-l", d], check=True)


def test_reads_go_on_when_the_cache_disk_is_full(fakereg, tmp_path, mount, small_disk):
    image = layered("full", layers=3, size=9 << 20)
    fakereg.add("app", image, "1.0")
    disk = small_disk("8M")
    m = mount(fakereg.url, options=f"cache={disk}/cache,cache_free=0")
    expected = expected_tree(image, tmp_path)
    check(m, expected)
    assert len(os.listdir(m.path / "app/1.0/layers")) == 8
    assert (m.path / "app/1.0/layers/00.tar.gz").read_bytes() == image.layers[0].blob
    assert (m.path / "app/1.0/history.txt").read_text()
    check(m, expected)


def test_reads_go_on_when_somebody_else_fills_the_disk(fakereg, tmp_path, mount, small_disk):
    image, more = layered("warm"), layered("more")
    fakereg.add("app", image, "1.0")
    fakereg.add("app", more, "2.0")
    disk = small_disk("40M")
    m = mount(fakereg.url, options=f"cache={disk}/cache,cache_free=1M")
    a, b = expected_tree(image, tmp_path / "a"), expected_tree(more, tmp_path / "b")
    check(m, a)
    with open(disk / "filler", "wb") as f:
        try:
            while True:
                f.write(bytes(1 << 16))
                f.flush()
        except OSError:
            pass
    check(m, b, "app/2.0")
    check(m, a)
    (disk / "filler").unlink()
    check(m, b, "app/2.0")
    check(m, a)


def test_reads_go_on_when_the_cache_disk_breaks(fakereg, tmp_path, mount, breakable_disk):
    image, more = layered("good"), layered("late")
    fakereg.add("app", image, "1.0")
    fakereg.add("app", more, "2.0")
    disk, destroy = breakable_disk
    m = mount(fakereg.url, options=f"cache={disk}/cache,tag_ttl=1")
    a, b = expected_tree(image, tmp_path / "a"), expected_tree(more, tmp_path / "b")
    check(m, a)
    destroy()
    assert errno_of(os.listdir, disk) == "EIO" or errno_of(open, disk / "x", "w") == "EIO"
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    check(m, b, "app/2.0")
    check(m, a)
    assert (m.path / "app/2.0/layers/01.tar.zst").read_bytes() == more.layers[1].blob
    assert m.stats()["cache_write_errors"] > 0


def test_reads_go_on_when_the_cache_becomes_read_only_or_goes_away(fakereg, tmp_path, mount, small_disk):
    image, more = layered("ro"), layered("ro2")
    fakereg.add("app", image, "1.0")
    fakereg.add("app", more, "2.0")
    disk = small_disk("100M")
    m = mount(fakereg.url, options=f"cache={disk}/cache")
    a, b = expected_tree(image, tmp_path / "a"), expected_tree(more, tmp_path / "b")
    check(m, a)
    run("mount", "-o", "remount,ro", disk)
    check(m, b, "app/2.0")
    run("mount", "-o", "remount,rw", disk)
    check(m, b, "app/2.0")
    shutil.rmtree(disk / "cache")
    m2 = mount(fakereg.url, options=f"cache={disk}/cache")
    check(m, a)
    check(m, b, "app/2.0")
    check(m2, a)


def test_a_cache_that_cannot_be_used_is_said_at_once(fakereg, tmp_path):
    (tmp_path / "file").write_text("x")
    m = Mount(fakereg.url, options=f"cache={tmp_path}/file", clean=False)
    try:
        p = m.run(*m.arguments()) if m.path.mkdir(parents=True) is None else None
        assert p.returncode != 0 and "cache" in p.stderr and p.stderr.count("\n") == 1, p
    finally:
        m.finish()
        m._remove()


# ---- damage

def flip(path, where):
    data = bytearray(path.read_bytes())
    if data:
        data[int(where * (len(data) - 1))] ^= 0x55
        path.write_bytes(data)


@pytest.mark.parametrize("damage", ["first", "middle", "last", "every page", "shortened", "emptied", "exchanged"])
def test_damaged_entries_are_fetched_again_and_counted(fakereg, tmp_path, mount, damage):
    image = layered("damage")
    fakereg.add("app", image, "1.0")
    expected = expected_tree(image, tmp_path)
    m = mount(fakereg.url)
    check(m, expected)
    blobs = [next((m.path / "app/1.0/layers").glob(f"0{n}.*")).name for n in range(3)]
    for name in blobs:
        (m.path / "app/1.0/layers" / name).read_bytes()
    (m.path / "app/1.0/config.json").read_bytes()
    m.umount()
    files = objects(cache_of(m))
    assert len(files) > 10
    if damage == "exchanged":
        for a, b in zip(files[::2], files[1::2]):
            x, y = a.read_bytes(), b.read_bytes()
            a.write_bytes(y)
            b.write_bytes(x)
    for f in files:
        size = f.stat().st_size
        if damage in ("first", "middle", "last"):
            flip(f, {"first": 0, "middle": 0.5, "last": 1}[damage])
        elif damage == "every page":
            data = bytearray(f.read_bytes())
            data[::4096] = bytes(b ^ 1 for b in data[::4096])
            f.write_bytes(data)
        elif damage in ("shortened", "emptied"):
            os.truncate(f, size * 2 // 3 if damage == "shortened" else 0)
    fakereg.reset()
    m.start()
    check(m, expected)
    for n, name in enumerate(blobs):
        assert (m.path / "app/1.0/layers" / name).read_bytes() == image.layers[n].blob
    assert (m.path / "app/1.0/config.json").read_bytes() == image.config
    assert (m.path / "app/1.0/manifest.json").read_bytes() == image.manifest
    assert fakereg.count("blob_get") >= 4, fakereg.dump()
    assert m.stats()["cache_corrupt"] >= 4, m.stats()
    fakereg.reset()
    m.umount()
    m.start()
    check(m, expected)                                            # mended for good
    assert fakereg.count("blob_get") == 0, fakereg.dump()


def test_damage_under_a_running_daemon_is_seen_when_a_block_is_first_read(fakereg, tmp_path, mount):
    image = layered("live")
    fakereg.add("app", image, "1.0")
    expected = expected_tree(image, tmp_path)
    m = mount(fakereg.url)
    check(m, expected)
    m.umount()
    m.start()
    assert (m.path / "app/1.0/rootfs/version").read_text() == "live\n"
    for f in objects(cache_of(m)):
        flip(f, 0.4)
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")       # what the kernel kept of the mount
    check(m, expected)
    assert m.stats()["cache_corrupt"] > 0


# ---- the registry is away

def test_what_is_cached_is_served_while_the_registry_is_down_and_the_log_says_so(fakereg, tmp_path, mount):
    image = layered("down")
    fakereg.add("app", image, "1.0", "2.0")
    expected = expected_tree(image, tmp_path)
    m = mount(fakereg.url, options="tag_ttl=1,timeout=5")
    check(m, expected)
    assert sorted(os.listdir(m.path / "app")) == ["1.0", "2.0"] and os.listdir(m.path) == ["app"]
    fakereg.stop()
    time.sleep(2.5)
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    start = time.monotonic()
    check(m, expected)
    assert (m.path / "app/1.0/digest").read_text() == image.digest + "\n"
    assert sorted(os.listdir(m.path / "app")) == ["1.0", "2.0"] and os.listdir(m.path) == ["app"]
    assert time.monotonic() - start < 20
    assert "serving what is cached" in m.log
    assert errno_of(os.listdir, m.path / "app/none") not in ("ENOENT", None)      # cannot be known now
    fakereg.start()
    time.sleep(2.5)
    check(m, expected)
    assert errno_of(os.listdir, m.path / "app/none") == "ENOENT"


@pytest.mark.parametrize("fault", ["503", "reset", "html"])
def test_what_is_cached_is_served_while_the_registry_is_ill(fakereg, tmp_path, mount, fault):
    image = layered("ill", layers=1)
    fakereg.add("app", image, "1.0")
    expected = expected_tree(image, tmp_path)
    m = mount(fakereg.url, options="tag_ttl=1")
    check(m, expected)
    assert os.listdir(m.path / "app") == ["1.0"]
    action = {"503": faults.server_error(503), "reset": faults.reset(), "html": faults.html(502)}[fault]
    fakereg.fault("*", "/v2/", action, times=None)
    time.sleep(1.5)
    check(m, expected)
    assert os.listdir(m.path / "app") == ["1.0"]
    assert "serving what is cached" in m.log


@pytest.mark.parametrize("status", [401, 403])
def test_what_is_cached_is_not_served_once_access_is_refused(fakereg, tmp_path, mount, status):
    image = layered("refused", layers=1)
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url, options="tag_ttl=1")
    check(m, expected_tree(image, tmp_path))
    fakereg.fault("*", "/v2/app/", faults.error(status, "DENIED" if status == 403 else "UNAUTHORIZED", "no"), times=None)
    time.sleep(1.5)
    for name in ("digest", "manifest.json", "rootfs/version", "layers/00.tar.gz"):
        assert errno_of((m.path / "app/1.0" / name).read_bytes) == "EACCES", name
    assert errno_of(os.listdir, m.path / "app/1.0") == "EACCES"
    assert errno_of(os.listdir, m.path / "app") == "EACCES"
    fakereg.clear_faults()
    time.sleep(5.5)
    assert (m.path / "app/1.0/digest").read_text() == image.digest + "\n"


def test_bytes_of_one_repository_are_not_shown_through_another_that_refuses_them(fakereg, tmp_path, mount):
    image = layered("private", layers=1)
    fakereg.add("open", image, "1.0")
    fakereg.add("closed", image, "1.0")
    fakereg.repo("empty")
    fakereg.fault("*", "/v2/closed/", faults.error(403, "DENIED", "no"), times=None)
    m = mount(fakereg.url)
    check(m, expected_tree(image, tmp_path), "open/1.0")
    assert errno_of(os.listdir, m.path / "closed/1.0") == "EACCES"
    assert errno_of((m.path / "closed" / image.digest / "digest").read_text) == "EACCES"
    assert errno_of((m.path / "empty" / image.digest / "digest").read_text) == "ENOENT"


def test_the_cache_is_private(fakereg, mount):
    fakereg.add("app", layered("modes", layers=1), "1.0")
    m = mount(fakereg.url)
    (m.path / "app/1.0/rootfs/version").read_text()
    assert stat.S_IMODE(cache_of(m).stat().st_mode) == 0o700
    found = list(below(cache_of(m)))
    assert len(found) > 10
    for p, st in found:
        assert stat.S_IMODE(st.st_mode) == (0o700 if stat.S_ISDIR(st.st_mode) else 0o600), p
