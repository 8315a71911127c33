"""The traps of FUSE (F1-F28 of the design notes): which test shows that none is stepped into; what needs a kernel is here."""
import concurrent.futures
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import pathlib
import re
import shutil
import signal
import stat
import struct
import subprocess
import threading
import time

import pytest

from lib import faults
from lib.images import Image, Layer, directory, file, hardlink, symlink
from lib.rfs import ROOT
from lib.syscalls import getdents

TESTS = ROOT / "tests"

# trap -> (what it is, the tests that would notice: "unit:file:name" or "file:name"); no tests: a sentence why not
TRAPS = {
    "F1": ("which replies count as lookups", ["unit:test_fuse.c:lookup_counts_and_forget_undoes", "unit:test_fuse.c:forget_multi_works",
                                              "test_traps.py:test_f1_the_table_of_nodes_shrinks_when_the_kernel_forgets"]),
    "F2": ("entries that do not fit", ["unit:test_fuse.c:readdirplus_counts_exactly_with_tiny_buffers"]),
    "F3": ("forget races with lookup", ["unit:test_node.c:look_ups_and_forgets_race", "test_traps.py:test_f3_lookups_and_forgets_race"]),
    "F4": ("replies under a lock", ["unit:test_op.c:eight_threads_of_everything"]),
    "F5": ("notifications that deadlock", ["test_traps.py:test_f5_invalidations_while_everything_looks_do_not_deadlock"]),
    "F6": ("an invalidation overtakes an answer", ["unit:test_fuse.c:an_answer_older_than_an_invalidation_is_not_cached",
                                                     "test_traps.py:test_f6_a_refresh_is_complete_when_its_write_returns"]),
    "F7": ("ids used again", ["unit:test_node.c:ids_are_never_used_again"]),
    "F8": ("inode numbers", ["unit:test_node.c:inode_numbers_are_stable_and_never_0_or_1",
                             "test_traps.py:test_f8_inode_numbers_are_the_same_in_readdir_stat_and_after_a_restart"]),
    "F9": ("interrupts", ["test_stall.py:test_a_signal_ends_whoever_waits_at_once", "test_stall.py:test_a_handled_signal_does_not_break_a_read",
                          "unit:test_op.c:proc_status_tells_fatal_signals_from_others"]),
    "F10": ("the lock of libfuse's interrupts", ["unit:test_fuse.c:many_interrupts_and_answers_race"]),
    "F11": ("every request is answered once", ["unit:test_op.c:eight_threads_of_everything", "unit:test_fuse.c:stopping_answers_what_waits"]),
    "F12": ("ten threads that wait", ["unit:test_op.c:a_cached_answer_does_not_wait_behind_40_stalled_fetches",
                                      "test_stall.py:test_what_is_cached_answers_within_10_ms_while_40_reads_are_stalled"]),
    "F13": ("sizes of reads", ["test_traps.py:test_f13_reads_of_every_size_give_the_same_bytes",
                               "unit:test_fuse.c:init_asks_for_what_we_decided"]),
    "F14": ("max_background", ["unit:test_fuse.c:init_asks_for_what_we_decided", "test_traps.py:test_f14_the_kernel_may_have_64_reads_under_way"]),
    "F15": ("pages dropped by a changing mtime", ["test_traps.py:test_f15_times_are_fixed_and_a_second_read_asks_nothing",
                                                     "test_traps.py:test_f15_a_small_file_comes_along_with_its_open",
                                                     "test_traps.py:test_f15_a_forgotten_file_comes_along_again"]),
    "F16": ("size 0 reads empty", ["test_traps.py:test_f16_text_files_have_their_size_and_read_completely"]),
    "F17": ("direct_io forbids mmap", ["test_traps.py:test_f17_programs_run_and_files_can_be_mapped", "test_tree.py:test_mmap"]),
    "F18": ("ENOSYS sticks", ["unit:test_fuse.c:the_rest_is_read_only_and_nothing_is_enosys",
                              "test_traps.py:test_f18_nothing_unsupported_spoils_what_is_supported"]),
    "F19": ("allow_other without permissions", ["test_traps.py:test_f19_modes_of_control_files_and_permissions_of_images_are_enforced"]),
    "F20": ("offsets of directories", ["unit:test_fuse.c:offsets_are_cookies_and_rewinding_lists_anew",
                                       "test_traps.py:test_f20_a_listing_is_a_snapshot_that_can_be_read_in_pieces"]),
    "F21": ("attributes that would need the network", ["test_counts.py:test_ls_of_10_000_tags_costs_the_list_pages_and_nothing_else"]),
    "F22": ("nodes pinned by the kernel", ["unit:test_fuse.c:a_tree_of_1000_files_is_one_node",
                                           "unit:test_node.c:freeing_the_table_drops_what_the_kernel_never_forgot"]),
    "F23": ("splice", "not used: replies are copied"),
    "F24": ("threads before the fork", ["test_traps.py:test_f24_the_mount_answers_when_the_command_returns_and_the_parent_is_gone"]),
    "F25": ("a dead daemon", ["test_stall.py:test_kill_9_of_the_daemon_leaves_enotconn_and_a_new_mount_replaces_it",
                              "test_traps.py:test_f25_an_aborted_connection_ends_the_daemon"]),
    "F26": ("cached symlinks", ["unit:test_fuse.c:init_asks_for_what_we_decided"]),
    "F27": ("statfs, access and security xattrs are frequent", ["test_traps.py:test_f27_statfs_access_and_security_xattrs_never_wait"]),
    "F28": ("crawlers", ["test_traps.py:test_f28_a_crawler_pulls_no_layer_and_finds_no_hidden_directory"]),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_has_its_tests(trap):
    what, tests = TRAPS[trap]
    if isinstance(tests, str):
        assert len(tests) > 10
        return
    assert tests, what
    for t in tests:
        where, _, name = t.removeprefix("unit:").partition(":")
        path = TESTS / ("unit" if t.startswith("unit:") else "") / where
        text = path.read_text()
        assert re.search(rf"^TEST\({name}\)|^def {name}\(", text, re.M), f"{trap}: {t} is gone"


def test_the_table_has_all_traps():
    assert list(TRAPS) == [f"F{i}" for i in range(1, 29)]


BIG = hashlib.shake_256(b"big").digest(5_000_001)
IMAGE = Image([
    Layer([directory("etc"), file("etc/motd", "hello\n"), file("big", BIG), file("empty", b""), symlink("link", "etc/motd"),
           hardlink("hard", "etc/motd"), file("secret", "x", mode=0o600), file("script", "#!/bin/sh\necho ran $1\n", mode=0o755),
           directory("closed", mode=0o700), file("closed/in", "x")]),
    Layer([file(f"many/f{i:04}", str(i)) for i in range(1500)])])


@pytest.fixture
def one(fakereg, mount):
    """(registry, mount) with IMAGE as app:1.0."""
    fakereg.add("app", IMAGE, "1.0")
    return fakereg, mount(fakereg.url, options="tag_ttl=600")


def forget_all(m):
    """Makes the kernel give back what it does not use (needs root, as the tests have)."""
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("2\n")
    assert m.alive()


def test_f1_the_table_of_nodes_shrinks_when_the_kernel_forgets(one):
    reg, m = one
    reg.add_tags("app", IMAGE.digest, [f"t{i:03}" for i in range(200)])
    for i in range(200):
        os.stat(m.path / f"app/t{i:03}/layers/00")
    grown = m.stats()["fuse_nodes"]
    assert grown > 200
    end = time.monotonic() + 10
    while m.stats()["fuse_nodes"] > 100:
        assert time.monotonic() < end, (grown, m.stats()["fuse_nodes"])
        forget_all(m)
        time.sleep(0.1)
    assert (m.path / "app/t007/rootfs/etc/motd").read_text() == "hello\n"


def test_f3_lookups_and_forgets_race(one):
    _, m = one
    end = time.monotonic() + 3
    errors = []

    def look(i):
        while time.monotonic() < end:
            try:
                assert (m.path / f"app/1.0/rootfs/many/f{i:04}").read_bytes() == str(i).encode()
                os.stat(m.path / f"app/{IMAGE.digest}/layers/00")
                os.listdir(m.path / "app/1.0")
            except Exception as e:
                errors.append(e)
                return
    threads = [threading.Thread(target=look, args=(i,)) for i in range(6)]
    [t.start() for t in threads]
    while time.monotonic() < end:
        forget_all(m)
        time.sleep(0.02)
    [t.join() for t in threads]
    assert not errors, errors


def test_f5_invalidations_while_everything_looks_do_not_deadlock(one):
    _, m = one
    end = time.monotonic() + 3
    stop, errors = threading.Event(), []

    def loop(call):
        while not stop.is_set():
            try:
                call()
            except Exception as e:
                errors.append(e)
                return
    calls = [lambda: (m.path / ".control/refresh").write_text("1"), lambda: os.listdir(m.path / "app"),
             lambda: os.stat(m.path / "app/1.0/rootfs/etc"), lambda: (m.path / "app/1.0/digest").read_text(),
             lambda: (m.path / "app/.control/refresh").write_text("1"), lambda: os.stat(m.path / "app/none-such")
             if (m.path / "app/none-such").exists() else None]
    threads = [threading.Thread(target=loop, args=(c,), daemon=True) for c in calls]
    [t.start() for t in threads]
    time.sleep(max(0, end - time.monotonic()))
    stop.set()
    for t in threads:
        t.join(20)
        assert not t.is_alive(), "somebody waits for ever"
    assert not errors, errors


def test_f6_a_refresh_is_complete_when_its_write_returns(one):
    reg, m = one
    other = Image([Layer([file("etc/motd", "other\n")])])
    reg.add("app", other)
    reg.add_tags("app", IMAGE.digest, [f"t{i:03}" for i in range(300)])
    for i in range(300):                                 # much that the kernel has to be told
        os.stat(m.path / f"app/t{i:03}/layers/00")
    for i in range(60):
        digest = (IMAGE, other)[i % 2].digest
        reg.repo("app").tags["1.0"] = digest
        (m.path / ".control/refresh").write_text("1")
        assert (m.path / "app/1.0/digest").read_text() == digest + "\n", i


def test_f8_inode_numbers_are_the_same_in_readdir_stat_and_after_a_restart(fakereg, mount, tmp_path):
    fakereg.add("app", IMAGE, "1.0")

    def look(m):
        found = {}
        for where in ("", "app", "app/1.0", "app/1.0/layers", "app/1.0/rootfs", "app/1.0/rootfs/etc", "app/1.0/layers/00", "app/1.0/layers/00/closed", "app/.oci",
                      ".oci/app", "app/.control", "app/1.0/rootfs/many"):
            for name, ino, kind in getdents(m.path / where):
                name = name.decode()
                st = os.lstat(m.path / where / name)
                assert ino > 1 or os.path.samestat(st, os.stat(m.path)) or (where == "" and name == ".."), (where, name, ino)
                if name != ".." or where:            # the kernel's `..` of a mount point is outside
                    assert st.st_ino == ino, (where, name, ino, st.st_ino)
                assert kind in (0, stat.S_IFMT(st.st_mode) >> 12), (where, name)
                if name not in (".", ".."):
                    found[f"{where}/{name}"] = ino
        return found
    m = mount(fakereg.url, keep=tmp_path / "m")
    before = look(m)
    assert before["app/1.0/rootfs/hard"] == before["app/1.0/rootfs/etc/motd"]
    m.umount()
    assert look(mount(fakereg.url, keep=tmp_path / "m")) == before
    numbers = [v for k, v in before.items() if not k.endswith("/hard") and not k.startswith("app/1.0/layers/00/")]
    assert len(set(numbers)) >= len(numbers) - 20, "hashes collide"


@pytest.mark.parametrize("size", [1, 511, 4096, 65536, 131072, 262144, 1 << 20, 3 << 20])
def test_f13_reads_of_every_size_give_the_same_bytes(one, size):
    _, m = one
    fd = os.open(m.path / "app/1.0/rootfs/big", os.O_RDONLY)
    try:
        step = len(BIG) // 40 if size < 4096 else size
        for at in [*range(0, len(BIG), step), len(BIG) - 1, len(BIG), len(BIG) + 5]:
            assert os.pread(fd, size, at) == BIG[at:at + size], at
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        for at in (4095, 4097, 131071, 1 << 20, (4 << 20) - 1, 4 << 20):
            assert os.pread(fd, size, at) == BIG[at:at + size]
    finally:
        os.close(fd)
    fd = os.open(m.path / "app/1.0/rootfs/big", os.O_RDONLY | os.O_DIRECT)
    try:
        block = max(4096, size // 4096 * 4096)
        buf = mmap.mmap(-1, block)
        n = os.preadv(fd, [buf], 8192)
        assert buf[:n] == BIG[8192:8192 + n] and n == min(block, len(BIG) - 8192)
    finally:
        os.close(fd)


def test_f14_the_kernel_may_have_64_reads_under_way(one):
    """Forty readers' read-ahead is not throttled by the default of 12."""
    _, m = one
    dev = os.stat(m.path).st_dev
    where = pathlib.Path(f"/sys/fs/fuse/connections/{os.minor(dev)}/max_background")
    if not where.exists():                               # fusectl is not mounted here: ask it in a place of our own
        where = m.dir / "fusectl" / str(os.minor(dev)) / "max_background"
        (m.dir / "fusectl").mkdir()
        subprocess.run(["mount", "-t", "fusectl", "fusectl", m.dir / "fusectl"], check=True)
    try:
        assert int(where.read_text()) >= 64
    finally:
        subprocess.run(["umount", m.dir / "fusectl"], capture_output=True)


def test_f15_times_are_fixed_and_a_second_read_asks_nothing(one):
    _, m = one
    paths = ["app/1.0/rootfs/big", "app/1.0/rootfs/etc/motd", "app/1.0/manifest.json", "app/1.0/config.json", "app/1.0/layers/00.tar.gz",
             "app/1.0/history.txt", "app/1.0/rootfs/many", "app/1.0/rootfs", f"app/{IMAGE.digest}"]   # not app/1.0: a listed tag has no time yet
    before = {p: os.stat(m.path / p).st_mtime_ns for p in paths}
    assert all(t < (time.time() - 86400) * 10**9 for t in before.values()), before
    for p in paths:
        (m.path / p).read_bytes() if (m.path / p).is_file() else os.listdir(m.path / p)
    time.sleep(1.1)
    assert {p: os.stat(m.path / p).st_mtime_ns for p in paths} == before

    digest = m.path / "app" / IMAGE.digest
    big = digest / "rootfs/big"
    assert big.read_bytes() == BIG
    ops, read = m.stats()["fuse_ops"], m.stats()["fuse_read_bytes"]
    spent = m.stats()["fuse_ops"] - ops                  # what asking costs
    ops = m.stats()["fuse_ops"]
    for _ in range(5):
        assert big.read_bytes() == BIG
    more = m.stats()
    assert more["fuse_ops"] - ops - spent <= 5 * 5, "only open and close reach us"
    assert more["fuse_read_bytes"] - read < 64 << 10, "pages are kept over open and close"
    ops = m.stats()["fuse_ops"]
    for _ in range(50):
        for i in range(20):
            os.stat(digest / f"rootfs/many/f{i:04}")
    assert m.stats()["fuse_ops"] - ops - spent <= 20 * 2 + 5, "names and attributes under a digest are kept"


def test_f15_a_small_file_comes_along_with_its_open(fakereg, mount):
    sizes = (0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 200_000)
    content = {f"d/f{n}": hashlib.shake_128(b"%d" % n).digest(n) for n in sizes}
    fakereg.add("app", Image([Layer([file(name, data) for name, data in content.items()])]), "1.0")
    m = mount(fakereg.url)
    root = m.path / "app/1.0/rootfs"
    assert len(list(os.scandir(root / "d"))) == len(sizes)
    costs = m.stats()["fuse_ops"] - m.stats()["fuse_ops"]
    small = [n for n in content if 0 < len(content[n]) <= 65536]
    ops = m.stats()["fuse_ops"]
    for name in small:
        fd = os.open(root / name, os.O_RDONLY)
        assert os.read(fd, 70_000) == content[name]
        os.close(fd)
    assert m.stats()["fuse_ops"] - ops + costs <= len(small) + 3, "no read reaches us"
    for name, data in content.items():
        assert (root / name).read_bytes() == data
        if data:
            with open(root / name, "rb") as f, mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as view:
                assert view[:] == data


def test_f15_a_forgotten_file_comes_along_again(fakereg, mount):
    content = {f"d/f{i}": hashlib.shake_128(b"%d" % i).digest(5000) for i in range(50)}
    fakereg.add("app", Image([Layer([file(name, data) for name, data in content.items()])]), "1.0")
    m = mount(fakereg.url)
    root = m.path / "app/1.0/rootfs"

    def messages():
        assert len(list(os.scandir(root / "d"))) == len(content)
        assert all(os.stat(root / name).st_size == 5000 for name in content)
        before = m.stats()["fuse_ops"]
        for name, data in content.items():
            fd = os.open(root / name, os.O_RDONLY)
            assert os.read(fd, 5000) == data
            os.close(fd)
        return m.stats()["fuse_ops"] - before

    first = messages()
    held = os.open(root / "d", os.O_RDONLY)      # or the whole tree would be forgotten
    try:
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        assert messages() <= first + 5, "an open each, no read"
    finally:
        os.close(held)


def test_f15_many_open_the_same_small_files_at_once(fakereg, mount):
    """More readers than threads, all after the same files: who is handing over a file must not keep out who reads it."""
    content = {f"d/f{i}": hashlib.shake_128(b"%d" % i).digest(1000 + 150 * i) for i in range(300)}
    fakereg.add("app", Image([Layer([file(name, data) for name, data in content.items()])]), "1.0")
    m = mount(fakereg.url)
    root = m.path / "app/1.0/rootfs"
    assert (root / "d/f0").read_bytes() == content["d/f0"]

    def reader(_):
        return all((root / name).read_bytes() == data for name, data in content.items())

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        assert all(pool.map(reader, range(40), timeout=60))


def test_f16_text_files_have_their_size_and_read_completely(one):
    _, m = one
    for where in ("app/1.0", f"app/{IMAGE.digest}", "app/.oci", ".oci/app", "app/1.0/rootfs/etc"):
        for name in os.listdir(m.path / where):
            path = m.path / where / name
            if not path.is_file():
                continue
            data = path.read_bytes()
            assert os.stat(path).st_size == len(data), path
            assert subprocess.run(["wc", "-c", path], capture_output=True, text=True).stdout.split()[0] == str(len(data))
            copy = m.dir / "copy"
            shutil.copyfile(path, copy)                  # sendfile and copy_file_range believe the size
            assert copy.read_bytes() == data
            assert data == subprocess.run(["cp", path, "/dev/stdout"], capture_output=True).stdout
    for where in ("", "app", "app/1.0"):                 # control files change: their size may be a guess, their content not
        for name in os.listdir(m.path / where / ".control"):
            data = (m.path / where / ".control" / name).read_bytes()
            assert data or name == "errors", (where, name)
            assert subprocess.run(["cat", m.path / where / ".control" / name], capture_output=True).returncode == 0


def test_f17_programs_run_and_files_can_be_mapped(fakereg, mount):
    true = pathlib.Path(shutil.which("true")).resolve().read_bytes()
    fakereg.add("app", Image([Layer([file("bin/true", true, mode=0o755), file("bin/script", "#!/bin/sh\necho ran $1\n", mode=0o755),
                                     file("big", BIG)])]), "1.0")
    m = mount(fakereg.url)
    for where in ("rootfs", "layers/00"):
        root = m.path / "app/1.0" / where
        # By a shell: Python holds its lock until the program has been loaded, and the registry is one of its threads.
        assert subprocess.run(["sh", "-c", f"exec {root}/bin/true"]).returncode == 0
        assert subprocess.run([root / "bin/script", "well"], capture_output=True, text=True).stdout == "ran well\n"
        for prot, flags in ((mmap.PROT_READ, mmap.MAP_SHARED), (mmap.PROT_READ, mmap.MAP_PRIVATE),
                            (mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE)):
            with open(root / "big", "rb") as f, mmap.mmap(f.fileno(), 0, flags, prot) as view:
                assert view[:] == BIG
    for text in ("manifest.json", "config.json", "history.txt", "layers/00.tar.gz"):
        with open(m.path / "app/1.0" / text, "rb") as f, mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as view:
            assert len(view) == os.fstat(f.fileno()).st_size


def test_f18_nothing_unsupported_spoils_what_is_supported(one):
    """Whatever is tried that we do not do: a proper errno, and everything else goes on working."""
    _, m = one
    p = m.path / "app/1.0/rootfs"
    motd = p / "etc/motd"
    libc = ctypes.CDLL(None, use_errno=True)

    def denied(call, *args, **kw):
        with pytest.raises(OSError) as e:
            call(*args, **kw)
        assert e.value.errno not in (errno.ENOSYS, errno.EINPROGRESS, errno.EAGAIN, errno.EXDEV) and e.value.errno < 134, e.value
        return e.value.errno

    def fallocate():
        fd = os.open(motd, os.O_RDONLY)
        try:
            if libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(10)) < 0:
                raise OSError(ctypes.get_errno(), "fallocate")
        finally:
            os.close(fd)
    attempts = [
        (os.unlink, motd), (os.rename, motd, p / "etc/x"), (os.link, motd, p / "etc/y"), (os.symlink, "a", p / "etc/z"),
        (os.mkdir, p / "etc/d"), (os.rmdir, p / "etc"), (os.mkfifo, p / "etc/f"), (os.chmod, motd, 0o777), (os.chown, motd, 0, 7),
        (os.truncate, motd, 0), (os.utime, motd, (1, 2)), (os.setxattr, motd, "user.a", b"b"), (os.removexattr, motd, "user.a"),
        (open, motd, "w"), (open, motd, "a"), (open, p / "etc/new", "x"), (os.getxattr, motd, "user.none"), (os.getxattr, motd, "trusted.x"),
        (os.getxattr, motd, "security.capability"), (os.getxattr, motd, "system.posix_acl_access"), (fallocate,),
        (os.mkdir, m.path / "newrepo/x"), (os.rename, m.path / "app/1.0", m.path / "app/9.9"), (os.rmdir, m.path / "app/1.0"),
    ]
    for _ in range(2):
        got = {f"{a[0].__name__} {pathlib.Path(str(a[1])).name if len(a) > 1 else ''}": denied(*a) for a in attempts}
        assert got["unlink motd"] in (errno.EROFS, errno.EPERM, errno.EACCES)
        fd = os.open(motd, os.O_RDONLY)
        try:
            with pytest.raises(OSError) as e:
                fcntl.ioctl(fd, 0x5401, b"\0" * 64)
            assert e.value.errno == errno.ENOTTY
            assert os.lseek(fd, 0, os.SEEK_DATA) == 0 and os.lseek(fd, 0, os.SEEK_HOLE) == 6
            fcntl.flock(fd, fcntl.LOCK_SH)
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)
        d = os.open(p, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(d)
        os.close(d)
        # and now all that is supported
        assert motd.read_text() == "hello\n" and os.readlink(p / "link") and "etc" in os.listdir(p)
        assert os.getxattr(m.path / "app/1.0", "user.oci.digest").decode() == IMAGE.digest and os.listxattr(m.path / "app/1.0")
        assert os.access(motd, os.R_OK) and not os.access(p / "none", os.F_OK)
        (m.path / ".control/refresh").write_text("1\n")


def test_f19_modes_of_control_files_and_permissions_of_images_are_enforced(fakereg, mount, tmp_path):
    fakereg.add("app", IMAGE, "1.0")
    m = mount(fakereg.url, options="allow_other")
    control = m.path / ".control"
    assert stat.S_IMODE(control.stat().st_mode) & 0o077 == 0
    for name in os.listdir(control):
        assert stat.S_IMODE((control / name).stat().st_mode) & 0o077 == 0, name
    assert "default_permissions" in next(ln for ln in open("/proc/mounts") if ln.split()[1] == str(m.path))
    os.chmod(m.dir, 0o755)
    root = m.path / "app/1.0/rootfs"
    for p in (control / "info.json", root / "secret", root / "closed/in"):      # the owner has looked: names are cached
        p.read_bytes()
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]

    def as_nobody(*command):
        return subprocess.run([*nobody, *map(str, command)], capture_output=True, text=True)
    assert as_nobody("cat", root / "etc/motd").stdout == "hello\n"
    for path in (control / "info.json", control, root / "secret", root / "closed/in", m.path / "app/.control/info.json",
                 m.path / "app/1.0/.control/info.json"):
        p = as_nobody("cat", path)
        assert p.returncode != 0 and "Permission denied" in p.stderr, (path, p)
    assert "Permission denied" in as_nobody("sh", "-c", f"echo 1 > {control}/refresh").stderr


class Dir:
    """readdir with a buffer as small as one likes, seekdir and telldir, as an old NFS server does it."""

    def __init__(self, path, size):
        self.fd, self.buf = os.open(path, os.O_RDONLY | os.O_DIRECTORY), ctypes.create_string_buffer(size)
        self.libc = ctypes.CDLL(None, use_errno=True)

    def more(self):
        n = self.libc.getdents64(self.fd, self.buf, len(self.buf))
        if n < 0:
            raise OSError(ctypes.get_errno(), "getdents64")
        out, at = [], 0
        while at < n:
            _, off, length, _ = struct.unpack_from("=QqHB", self.buf.raw, at)
            out.append((self.buf.raw[at + 19:at + length].split(b"\0", 1)[0].decode(), off))
            at += length
        return out

    def rest(self):
        out = []
        while some := self.more():
            out += some
        return out

    def seek(self, off):
        os.lseek(self.fd, off, os.SEEK_SET)

    def close(self):
        os.close(self.fd)


@pytest.mark.parametrize("size", [64, 200, 4096])
def test_f20_a_listing_is_a_snapshot_that_can_be_read_in_pieces(fakereg, mount, size):
    names = [f"t{i:03}" for i in range(300)]
    fakereg.add("app", IMAGE)
    fakereg.add_tags("app", IMAGE.digest, names)
    m = mount(fakereg.url, options="tag_ttl=1")
    d = Dir(m.path / "app", size)
    try:
        seen = d.more()
        for i in range(150):                             # the list changes at its beginning and at its end
            fakereg.repo("app").tags.pop(f"t{i:03}")
        fakereg.add_tags("app", IMAGE.digest, [f"a{i:03}" for i in range(200)] + [f"z{i:03}" for i in range(200)])
        (m.path / ".control/refresh").write_text("1")
        time.sleep(1.1)
        assert "a000" in os.listdir(m.path / "app") and "t000" not in os.listdir(m.path / "app")
        seen += d.rest()
        listed = [n for n, _ in seen if n not in (".", "..")]
        assert sorted(listed) == names, "an open directory shows what it showed when it was opened: nothing twice, nothing missing"
        for k in (0, 17, 250):                           # back to any place, in any order
            d.seek(seen[k][1])
            assert [n for n, _ in d.rest()] == [n for n, _ in seen[k + 1:]]
        d.seek(0)                                        # rewinddir lists anew
        anew = [n for n, _ in d.rest() if n not in (".", "..")]
        assert sorted(anew) in (sorted(fakereg.repo("app").tags), names)
    finally:
        d.close()
    d = Dir(m.path / f"app/{IMAGE.digest}/rootfs/many", size)
    try:
        seen = d.rest()
        assert len(seen) == 1502 and len({o for _, o in seen}) == 1502
        d.seek(seen[1000][1])
        assert [n for n, _ in d.rest()] == [n for n, _ in seen[1001:]]
    finally:
        d.close()


def test_f24_the_mount_answers_when_the_command_returns_and_the_parent_is_gone(fakereg, mount):
    fakereg.add("app", IMAGE, "1.0")
    for _ in range(5):
        m = mount(fakereg.url)                           # returns as soon as the command does
        assert (m.path / "app/1.0/rootfs/etc/motd").read_text() == "hello\n"
        status = pathlib.Path(f"/proc/{m.pid}/status").read_text()
        assert int(re.search(r"^Threads:\s+(\d+)", status, re.M)[1]) > 1
        assert os.getsid(m.pid) == m.pid or os.getpgid(m.pid) != os.getpgid(0), "Ctrl-C in the terminal must not reach the daemon"
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda i: (m.path / f"app/1.0/rootfs/many/f{i:04}").read_text() == str(i), range(50))) == {True}
        m.umount()
        assert m.status == 0


def test_f25_an_aborted_connection_ends_the_daemon(fakereg, mount):
    """echo 1 > /sys/fs/fuse/connections/N/abort, the way out when nothing else helps."""
    fakereg.add("app", IMAGE, "1.0")
    gate = threading.Event()
    m = mount(fakereg.url, clean=False)
    os.stat(m.path / "app/1.0")
    fakereg.fault("GET", IMAGE.layers[0].digest, faults.stall(gate), times=None)
    cat = subprocess.Popen(["cat", m.path / "app/1.0/rootfs/etc/motd"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    ctl = m.dir / "fusectl"
    ctl.mkdir()
    minor = os.minor(os.stat(m.path).st_dev)
    subprocess.run(["mount", "-t", "fusectl", "fusectl", ctl], check=True)
    try:
        (ctl / str(minor) / "abort").write_text("1")
    finally:
        subprocess.run(["umount", ctl], check=True)
    assert cat.wait(5) != 0
    assert m.wait(10) is not None, "the daemon does not notice"
    gate.set()


def test_f27_statfs_access_and_security_xattrs_never_wait(one):
    reg, m = one
    (m.path / "app/1.0/rootfs/etc/motd").read_text()
    slow = Image([Layer([file("x", os.urandom(300_000))])])
    for i in range(30):
        reg.add(f"s{i}", slow if i == 0 else Image([Layer([file("x", os.urandom(300_000))])]), "1.0")
    for i in range(30):
        (m.path / f"s{i}/1.0/config.json").read_bytes()
    gate = threading.Event()
    reg.fault("GET", "/blobs/", faults.stall(gate), times=None)
    cats = [subprocess.Popen(["cat", m.path / f"s{i}/1.0/rootfs/x"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i in range(30)]
    try:
        end = time.monotonic() + 10
        while m.stats()["fuse_parked"] < 30 and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)
        before = reg.count()
        for call in (lambda: os.statvfs(m.path / "app/1.0/rootfs/etc"), lambda: os.statvfs(m.path),
                     lambda: os.access(m.path / "app/1.0/rootfs/etc/motd", os.R_OK)):
            start = time.monotonic()
            for _ in range(100):
                call()
            assert time.monotonic() - start < 2
        for where in ("app/1.0/rootfs/etc/motd", "app/1.0", "s3/1.0", "s3"):
            for name in ("security.capability", "security.selinux", "system.posix_acl_access", "user.none"):
                start = time.monotonic()
                with pytest.raises(OSError) as e:
                    os.getxattr(m.path / where, name)
                assert e.value.errno in (errno.ENODATA, errno.EOPNOTSUPP) and time.monotonic() - start < 0.5, (where, name)
        assert subprocess.run(["df", m.path], capture_output=True, timeout=5).returncode == 0
        st = os.statvfs(m.path)
        assert st.f_blocks > 0 and st.f_namemax == 255
        assert reg.count() - before <= 2, reg.dump()
    finally:
        gate.set()
        [c.send_signal(signal.SIGKILL) for c in cats]
        [c.wait() for c in cats]


def test_f28_a_crawler_pulls_no_layer_and_finds_no_hidden_directory(fakereg, mount):
    """updatedb and friends list names; a `find` that stays above the trees costs lists and manifests, and no layer."""
    for i in range(20):
        fakereg.add(f"g{i % 4}/r{i}", Image([Layer([file("x", f"{i}" * 1000)], compress="none")]), "1.0", "2.0")
    m = mount(fakereg.url)
    out = subprocess.run(["find", m.path, "-maxdepth", "3"], capture_output=True, text=True, check=True).stdout
    assert "/1.0" in out and not re.search(r"/\.(oci|tar|control|draft|untagged)", out)
    assert fakereg.count("blob_get") == 0 or all(r.bytes < 1000 for r in fakereg.requests(kind="blob_get"))
    for name in (".oci", ".tar", ".control"):
        assert name not in os.listdir(m.path) + os.listdir(m.path / "g0/r0") + os.listdir(m.path / "g0/r0/1.0")
    layers = {la.split("/")[-1] for la in (r.path for r in fakereg.requests(kind="blob_get"))}
    assert not any(d in layers for repo in fakereg.repos.values() for d in repo.blobs
                   if len(fakereg.blobs[d]) > 1000), "a layer was fetched"
    mounts = next(ln for ln in open("/proc/mounts") if ln.split()[1] == str(m.path))
    assert mounts.split()[2] == "fuse.registryfs", "what PRUNEFS of updatedb.conf names"
    assert "fuse.registryfs" in (ROOT / "contrib/updatedb.md").read_text()
