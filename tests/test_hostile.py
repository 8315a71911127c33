"""Images made to do harm: no crash, no escape, bounded memory, words for what is refused, and the mount goes on.

Memory: VmHWM, the most the daemon ever had. A mount that has read a good image has about 30 MiB; the layers of the small
images are a few megabytes at most, so that BOUND leaves room for every named ceiling (headers, spans, 32 MiB kept when the
disk takes nothing) and for nothing that grows with what an image merely claims. A sanitizer's shadow, redzones and
quarantine (which is cut to 16 MiB here) take up to three times as much and a constant. Large images: their own bounds.
"""
import errno
import os
import pathlib
import re
import signal
import stat
import subprocess
import time

import pytest

from lib import hostile, treecmp
from lib.images import Image, Layer, directory, file, push, write_layout
from lib.rfs import Mount, below, program
from lib.syscalls import resolve, stays_below

MIB = 1 << 20
BOUND = 128 * MIB
ENTRIES = 3000            # looked at per tree
READ = 1 << 20            # bytes read per file, from the start and from the end
WALK_SECONDS = 60
SANITIZED = b"__asan_init" in pathlib.Path(program()).read_bytes() if os.environ.get("REGISTRYFS") or \
    (pathlib.Path(__file__).parents[1] / "build" / "registryfs").exists() else False
# what a refusal may be: never EIO without a sentence, never a hang (checked apart)
ERRORS = {errno.EIO, errno.EINVAL, errno.EFBIG, errno.ENOENT, errno.EACCES, errno.EROFS, errno.ELOOP, errno.ENOTDIR, errno.ENODATA,
          errno.EOPNOTSUPP, errno.ENAMETOOLONG, errno.EBADMSG, errno.EPERM, errno.ENXIO}
GOOD = Image([Layer([directory("etc"), file("etc/motd", "still here")])])

# How an image of lib.hostile may end: what its rootfs must do. "shown": it is read without an error, and ok/file is there.
# "refused": looking into rootfs fails, with words. Both are sane for those that are not named, but one of them it must be.
SHOWN = {"dotdot", "absolute", "symlinked-parent", "symlink-escape", "symlink-cycle", "symlink-fanout", "hardlink-escape", "hardlink-loop",
         "hardlink-to-marker", "bare-whiteout", "duplicates", "not-utf8", "control-names", "long-names", "deep", "overlay-xattrs",
         "devices", "global-headers", "no-end-blocks", "garbage-after-end", "zeros-after-gzip", "wrong-media-type",
         "same-layer-300-times", "foreign-urls", "config-nulls", "config-escapes", "config-not-json", "missing-diff-ids"}
REFUSED = {"truncated-tar", "truncated-header", "not-a-tar", "truncated-gzip", "truncated-zstd", "bad-gzip-crc", "bad-checksum", "bad-octal",
           "absent-layer", "unknown-types", "longlink-huge", "size-2^62", "sizes", "pax-overflow", "sparse-lies"}


def memory_peak(m):
    for line in pathlib.Path(f"/proc/{m.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024


def allowed(plain):
    return 3 * plain + 350 * MIB if SANITIZED else plain


class Walk:
    """Looks at everything below a directory, as many tools would, and keeps what failed."""

    def __init__(self, m):
        self.m, self.errors, self.files, self.end = m, [], 0, time.monotonic() + WALK_SECONDS

    def attempt(self, path, function):
        try:
            return function()
        except OSError as e:
            assert e.errno in ERRORS, f"{path!r}: {e}"
            self.errors.append((path, e.errno))

    def below(self, path, depth=0):
        """Depth first, by directory descriptors, since paths may be longer than the kernel takes."""
        fd = self.attempt(path, lambda: os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        if fd is not None:
            self._directory(fd, path, depth)
        return self

    def _directory(self, fd, path, depth):
        try:
            for name in self.attempt(path, lambda: os.listdir(fd)) or ():
                name = os.fsencode(name)
                assert name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name and len(name) <= 255
                if self.files > ENTRIES:
                    return
                assert time.monotonic() < self.end, f"the walk takes too long at {path!r}"
                self._one(fd, name, path + b"/" + name, depth)
        finally:
            os.close(fd)

    def _one(self, at, name, path, depth):
        self.files += 1
        st = self.attempt(path, lambda: os.lstat(name, dir_fd=at))
        if st is None:
            return
        if stat.S_ISDIR(st.st_mode):
            if depth < 400:
                fd = self.attempt(path, lambda: os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at))
                if fd is not None:
                    self._directory(fd, path, depth + 1)
        elif stat.S_ISLNK(st.st_mode):
            text = self.attempt(path, lambda: os.readlink(name, dir_fd=at))
            assert text is None or len(text) == st.st_size
        elif stat.S_ISREG(st.st_mode):
            self.attempt(path, lambda: self._read(at, name))
        self.attempt(path, lambda: [os.getxattr(f"/proc/self/fd/{at}/".encode() + name, n, follow_symlinks=False) for n in
                                    os.listxattr(f"/proc/self/fd/{at}/".encode() + name, follow_symlinks=False)])

    @staticmethod
    def _read(at, name):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at)
        try:
            size = os.fstat(fd).st_size
            data = os.pread(fd, READ, 0)
            os.pread(fd, READ, max(0, size - READ))
            assert len(data) <= size or size == 0
        finally:
            os.close(fd)


def no_link_leads_out(top):
    """Of a tree: resolve() asserts it."""
    todo, n = [os.fsencode(top)], 0
    while todo and n < ENTRIES:
        path = todo.pop()
        for e in os.scandir(path) if len(path) < 3800 else ():
            n += 1
            if e.is_dir(follow_symlinks=False):
                todo.append(e.path)
            elif e.is_symlink():
                rel = e.path[len(os.fsencode(top)) + 1:]
                resolve(top, rel)
                assert stays_below(rel, os.readlink(e.path)), rel


def outside(m, tmp_path):
    """What lies around: nothing there may change."""
    places = ["/", "/tmp", "/etc", str(tmp_path), str(m.dir), str(m.path.parent)]
    found = {p for d in places for p in (os.path.join(d, n) for n in os.listdir(d)) if os.path.basename(p) in ("escape", "dir", "a", "passwd~")}
    for top in (d for d in m.dir.iterdir() if d != m.path and d.is_dir()):
        for d, _, names in os.walk(top):
            found |= {os.path.join(d, n) for n in names if n == "escape"}
    return found


def words(m):
    return (m.path / ".control" / "errors").read_text()


def check_words(m, path, text):
    """A refusal: a sentence in .control/errors and in the attribute of what was asked for, no control characters."""
    sentence = r"[a-z]{2,} [a-z]+"
    assert re.search(sentence, text), f"no words for {path}: {text!r}"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text), repr(text)
    assert "a bug in" not in text
    said = os.getxattr(path, "user.registryfs.error").decode()
    assert re.search(sentence, said), said
    assert "a bug in" not in said


def there(m, path):
    """The nearest directory that can be asked about: attributes need a name that resolves."""
    while True:
        try:
            os.lstat(path)
            os.getxattr(path, "user.registryfs.error")
            return path
        except OSError:
            assert path != m.path, "nowhere is said what went wrong"
            path = path.parent


def harmless_mount(source, options=()):
    m = Mount(source, options=[*options])
    m.env["ASAN_OPTIONS"] += ":quarantine_size_mb=16:allocator_release_to_os_interval_ms=500"
    return m


def examine(m, tmp_path, before, bound=BOUND, layers=True):
    """Everything of the image bad:1.0; returns the errno of rootfs (0: shown)."""
    tag = m.path / "bad" / "1.0"
    walk = Walk(m)
    result = 0
    try:
        names = os.listdir(tag / "rootfs")
        assert len(names) == len(set(names))
    except OSError as e:
        result = e.errno
        if result != errno.ENOENT:
            check_words(m, there(m, tag / "rootfs"), words(m))
    walk.below(os.fsencode(tag / "rootfs"))
    for name in ("layers", "files", "platforms", "referrers") if layers else ():
        if walk.files <= ENTRIES and os.path.lexists(tag / name):
            walk.below(os.fsencode(tag / name))
    for name in ("manifest.json", "config.json", "digest", "history.txt", ".control/info.json"):
        text = walk.attempt(name, (tag / name).read_bytes)
        if name in ("history.txt", "digest") and text:
            assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", text), name
    if result == 0:
        no_link_leads_out(tag / "rootfs")
    for path, eno in walk.errors:
        assert eno != errno.EIO or words(m), path
    assert "a bug in" not in words(m) and "a bug in" not in m.log, words(m)
    # it goes on
    assert (m.path / "good" / "1.0" / "rootfs" / "etc" / "motd").read_text() == "still here"
    assert m.alive() and outside(m, tmp_path) == before
    peak = memory_peak(m)
    assert peak < allowed(bound), f"{peak / MIB:.0f} MiB of memory"
    return result


@pytest.fixture(scope="module")
def images():
    return hostile.hostile_images()


@pytest.mark.parametrize("name", sorted(hostile.hostile_images()))
def test_a_hostile_image_does_no_harm(images, tmp_path, name):
    write_layout(tmp_path / "reg" / "bad", {"1.0": images[name]})
    write_layout(tmp_path / "reg" / "good", {"1.0": GOOD})
    with harmless_mount(f"dir:{tmp_path / 'reg'}") as m:
        before = outside(m, tmp_path)
        result = examine(m, tmp_path, before)
        if name in SHOWN:
            assert result == 0, words(m)
            if name != "same-layer-300-times":
                assert (m.path / "bad" / "1.0" / "rootfs").is_dir()
            if (m.path / "bad/1.0/rootfs/ok").exists():
                assert (m.path / "bad/1.0/rootfs/ok/file").read_text() == "fine"
        if name in REFUSED:
            assert result, f"{name} is shown: {sorted(os.listdir(m.path / 'bad/1.0/rootfs'))[:20]}"


def test_names_that_climb_out_are_left_out(images, tmp_path):
    """No path of the tree is made of what an archive hides behind `..`, and nothing is shown that was not asked for."""
    write_layout(tmp_path / "reg" / "bad", {"1.0": images["dotdot"]})
    with harmless_mount(f"dir:{tmp_path / 'reg'}") as m:
        assert set(os.listdir(m.path / "bad/1.0/rootfs")) == {"ok"}
        assert os.listdir(m.path / "bad/1.0/rootfs/ok") == ["file"]


def test_hard_links_to_the_host_show_nothing_of_it(images, tmp_path):
    write_layout(tmp_path / "reg" / "bad", {"1.0": images["hardlink-escape"]})
    with harmless_mount(f"dir:{tmp_path / 'reg'}") as m:
        top = m.path / "bad/1.0/rootfs"
        for path, _, files in os.walk(top):
            for n in files:
                if not os.path.islink(os.path.join(path, n)):
                    assert b"root:" not in pathlib.Path(path, n).read_bytes()


def test_xattrs_that_steer_overlayfs_are_not_shown(images, tmp_path):
    write_layout(tmp_path / "reg" / "bad", {"1.0": images["overlay-xattrs"]})
    with harmless_mount(f"dir:{tmp_path / 'reg'}") as m:
        path = m.path / "bad/1.0/rootfs/o"
        assert not [n for n in os.listxattr(path) if "overlay" in n]
        with pytest.raises(OSError):
            os.getxattr(path, "user.overlay.opaque")
        try:
            assert os.getxattr(path, "user.registryfs.error") != b"lie"
        except OSError as e:
            assert e.errno == errno.ENODATA


@pytest.mark.parametrize("name", ["truncated-gzip", "not-a-tar", "symlink-escape", "duplicates", "bad-sizes", "nested-indexes",
                                  "exponential-index", "pax-huge"])
def test_hostile_images_over_http(images, tmp_path, fakereg, name):
    push(fakereg.url, "bad", "1.0", images[name])
    push(fakereg.url, "good", "1.0", GOOD)
    with harmless_mount(fakereg.url) as m:
        examine(m, tmp_path, outside(m, tmp_path))


def test_all_hostile_images_in_one_mount_one_after_the_other(images, tmp_path):
    """What one leaves behind does not hurt the next; memory does not add up."""
    for name, image in images.items():
        write_layout(tmp_path / "reg" / name.replace("^", "-"), {"1.0": image})
    write_layout(tmp_path / "reg" / "good", {"1.0": GOOD})
    with harmless_mount(f"dir:{tmp_path / 'reg'}") as m:
        for name in images:
            try:
                os.listdir(m.path / name.replace("^", "-") / "1.0" / "rootfs")
            except OSError as e:
                assert e.errno in ERRORS, (name, e)
        assert (m.path / "good/1.0/rootfs/etc/motd").read_text() == "still here"
        assert memory_peak(m) < allowed(2 * BOUND)


# ---- large ones

def large(tmp_path, image, bound, options=(), good_first=False):
    write_layout(tmp_path / "reg" / "bad", {"1.0": image})
    write_layout(tmp_path / "reg" / "good", {"1.0": GOOD})
    m = harmless_mount(f"dir:{tmp_path / 'reg'}", options)
    with m:
        before = outside(m, tmp_path)
        result = examine(m, tmp_path, before, bound, layers=False)
        yield m, result


def kept(m):
    """Bytes in the cache directory."""
    return sum(st.st_blocks * 512 for _, st in below(m.dir / "cache") if stat.S_ISREG(st.st_mode))


def check_bomb(tmp_path, image, size):
    """A file of zeros that is thousands of times smaller on the wire: served within limits, or refused in words."""
    for m, result in large(tmp_path, image, BOUND, ["cache_size=134217728"]):
        top = m.path / "bad" / "1.0" / "rootfs"
        if result == 0:
            assert (top / "zeros").stat().st_size == size
            with open(top / "zeros", "rb") as f:
                for off in (0, size // 2, size - 4096):
                    assert os.pread(f.fileno(), 4096, off) == bytes(4096)
            assert (top / "ok" / "file").read_text() == "fine"
        else:
            check_words(m, top, words(m))
        assert kept(m) < 160 * MIB, f"{kept(m) / MIB:.0f} MiB in the cache"
        assert memory_peak(m) < allowed(BOUND)


def check_many_entries(tmp_path, count, bound):
    """bound: two trees of 64 bytes a node plus names, and once what builds them, twice that; 100 bytes a file is the aim
    of what stays (DESIGN.md 6)."""
    image = hostile.many_entries(count)
    for m, result in large(tmp_path, image, bound):
        assert result == 0, words(m)
        top = m.path / "bad" / "1.0" / "rootfs"
        dirs = os.listdir(top)
        assert len(dirs) == count // 1000
        assert sorted(os.listdir(top / dirs[-1])) == [f"f{i:04}" for i in range(1000)]
        assert (top / dirs[0] / "f0999").stat().st_size == 0


def test_a_hundred_thousand_entries(tmp_path):
    check_many_entries(tmp_path, 100_000, 192 * MIB)


def test_a_gzip_bomb(tmp_path):
    check_bomb(tmp_path, hostile.gzip_bomb(512 << 20), 512 << 20)


def test_a_zstd_bomb(tmp_path):
    check_bomb(tmp_path, hostile.zstd_bomb(1 << 30), 1 << 30)


def test_very_many_gzip_members(tmp_path):
    for m, result in large(tmp_path, hostile.gzip_member_bomb(50_000), BOUND):
        if result == 0:
            assert (m.path / "bad/1.0/rootfs/ok/file").read_text() == "fine"


def test_a_directory_of_very_many_names(tmp_path):
    image = Image([Layer([file(f"d/{i:06}") for i in range(60_000)])])
    for m, result in large(tmp_path, image, 192 * MIB):
        assert result == 0 and len(os.listdir(m.path / "bad/1.0/rootfs/d")) == 60_000


@pytest.mark.long
def test_a_million_entries(tmp_path):
    check_many_entries(tmp_path, 1_000_000, 640 * MIB)


@pytest.mark.long
def test_a_gzip_bomb_of_4_gib(tmp_path):
    check_bomb(tmp_path, hostile.gzip_bomb(), 4 << 30)


@pytest.mark.long
def test_a_zstd_bomb_of_16_gib(tmp_path):
    check_bomb(tmp_path, hostile.zstd_bomb(), 16 << 30)


@pytest.mark.long
def test_300_000_gzip_members(tmp_path):
    for m, result in large(tmp_path, hostile.gzip_member_bomb(), BOUND):
        if result == 0:
            assert (m.path / "bad/1.0/rootfs/ok/file").read_text() == "fine"


def test_someone_who_looks_at_a_bomb_can_be_interrupted(tmp_path):
    write_layout(tmp_path / "reg" / "bad", {"1.0": hostile.zstd_bomb(8 << 30)})
    write_layout(tmp_path / "reg" / "good", {"1.0": GOOD})
    with harmless_mount(f"dir:{tmp_path / 'reg'}", ["cache_size=134217728"]) as m:
        p = subprocess.Popen(["ls", m.path / "bad/1.0/rootfs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(0.5)
        begun = time.monotonic()
        assert (m.path / "good/1.0/rootfs/etc/motd").read_text() == "still here"
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=20)
        assert time.monotonic() - begun < 10


def resident(m):
    text = pathlib.Path(f"/proc/{m.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) << 10


def test_layers_whose_trees_are_too_large_together_are_refused_before_they_are_read(tmp_path):
    """A layer's tree of 320 MB is fine; eight of them are 2.5 GB, more than any machine gives to one image (2 GiB)."""
    write_layout(tmp_path / "reg" / "bad", {"1.0": hostile.large_xattrs()})
    write_layout(tmp_path / "reg" / "good", {"1.0": GOOD})
    with harmless_mount(f"dir:{tmp_path / 'reg'}") as m:
        assert (m.path / "good/1.0/rootfs/etc/motd").read_text() == "still here"
        top, before = m.path / "bad/1.0/rootfs", resident(m)
        for name in ("l7/f00000", "l0/f00000", ""):
            with pytest.raises(OSError) as e:
                os.listdir(top / name) if not name else os.lstat(top / name)
            assert e.value.errno == errno.EFBIG, name
        check_words(m, there(m, top), words(m))
        assert "8 layers need" in words(m)
        assert memory_peak(m) < allowed(1536 * MIB), f"{memory_peak(m) / MIB:.0f} MiB of memory"
        assert resident(m) - before < allowed(128 * MIB), f"{resident(m) / MIB:.0f} MiB stay"
        assert (m.path / "good/1.0/rootfs/etc/motd").read_text() == "still here"


@pytest.mark.long
def test_ten_million_entries_take_less_than_100_bytes_each_and_are_listed_at_once(tmp_path):
    count, memory = 10_000_000, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    write_layout(tmp_path / "reg", {"1.0": hostile.many_entries(count)})
    with harmless_mount(f"dir:{tmp_path / 'reg'}") as m:
        top, before = m.path / "1.0" / "rootfs", resident(m)
        if memory < 8 << 30:                                      # an eighth of it is not enough to index them
            with pytest.raises(OSError) as e:
                os.listdir(top)
            assert e.value.errno == errno.EFBIG
            return
        assert len(os.listdir(top)) == count // 1000
        times = []
        for i in range(11):
            start = time.monotonic()
            assert len(os.listdir(top / f"d{i * 777:05}")) == 1000
            times.append(time.monotonic() - start)
        assert sorted(times)[5] < (0.5 if SANITIZED else 0.05), times
        assert resident(m) - before < 100 * count, f"{resident(m) / MIB:.0f} MiB"
        m.umount()
        m.start()
        assert (top / "d00000/f0001").stat().st_size == 0 and (top / "d09999/f0999").read_bytes() == b""
        assert resident(m) - before < 100 * count, f"{resident(m) / MIB:.0f} MiB"
