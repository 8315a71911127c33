"""A name that an upper layer decides does not wait for lower layers (DESIGN.md 6), and nobody can tell afterwards.

The lowest layer stalls while upper ones are read. What is answered then has to be what the merged tree says later: attributes,
inode numbers, extended attributes, contents, open files, working directories.
"""
import errno
import os
import random
import stat
import subprocess
import threading
import time

import pytest

from lib import corner, faults, treecmp
from lib.images import Image, Layer, directory, fifo, file, hardlink, opaque, sparse, symlink, whiteout
from lib.syscalls import getdents
from lib.tarwriter import char

BIG = random.Random(5).randbytes(300_000)
SPARSE = sparse("etc/sparse", [(4096, b"x" * 5000), (1 << 20, b"end")], (1 << 20) + 3)

BASE = Layer([directory("./", 0o711, mtime=1), directory("etc", 0o700, mtime=2), file("etc/low", "low"), file("etc/motd", "old"),
              file("gone", "gone"), directory("opq"), file("opq/old", "old"), directory("low", 0o750, uid=3, mtime=3), file("low/a", "a"),
              directory("made", 0o710, uid=5, mtime=9), file("made/old", "old"), file("was-dir/x/y", "y"), file("target", "t")])
MIDDLE = Layer([file("middle", "middle"), directory("etc", 0o751, mtime=4), file("etc/middle", "m" * 70_000), whiteout("never"),
                hardlink("linked", "target")])
TOP = Layer([directory("./", 0o755, uid=1, mtime=7), directory("etc", 0o755, gid=2, mtime=8),
             file("etc/motd", "new\n", mode=0o604, uid=7, gid=8, mtime=77,
                  xattrs={b"user.x": b"\0y", b"user.overlay.z": b"hidden", b"trusted.overlay.q": b"hidden"}),
             file("etc/big", BIG), SPARSE, fifo("etc/fifo"), char("etc/null", 1, 3), directory("etc/dir", 0o770), file("etc/dir/in", "in"),
             whiteout("gone"), opaque("opq"), directory("opq"), file("opq/new", "new"), symlink("etc/link", "low"), file("was-dir", "file"),
             file("etc/pair1", "p"), hardlink("etc/pair2", "etc/pair1"), file("made/new", "new")])
IMAGE = Image([BASE, MIDDLE, TOP])


class Early:
    """A mount of IMAGE as app/1.0 whose layers in `stalled` do not come until .gate is set."""

    def __init__(self, reg, m, gate):
        self.reg, self.m, self.gate = reg, m, gate
        self.root = m.path / "app/1.0/rootfs"
        self.children = []

    def spawn(self, *command):
        p = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.children.append(p)
        return p

    def waits(self, *command):
        """Starts it, and sees that it waits; then .gate.set() and .answer(p)."""
        p = self.spawn(*command)
        time.sleep(0.5)
        assert p.poll() is None, p.communicate()
        return p

    def answer(self, p):
        out, err = p.communicate(timeout=30)
        assert p.returncode == 0, err
        return out

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
def early(make_fakereg, mount):
    """early(image, stalled=[layers], action=faults.stall) -> Early"""
    made = []

    def make(image=IMAGE, stalled=(BASE,), action=faults.stall, options="", env=None):
        reg, gate = make_fakereg(), threading.Event()
        reg.add("app", image, "1.0")
        for layer in stalled:
            reg.fault("GET", layer.digest, action(gate), times=None)
        m = mount(reg.url, options=options or (), env=env)
        made.append(Early(reg, m, gate))
        return made[-1]
    yield make
    for e in made:
        e.end()


def seen(path, full=True):
    """Everything that can be asked about a file."""
    st = os.lstat(path)
    d = {k: getattr(st, k) for k in dir(st) if k.startswith("st_")}
    if stat.S_ISDIR(st.st_mode):
        del d["st_nlink"]
    d["xattrs"] = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
    if stat.S_ISREG(st.st_mode):
        d["layer"] = os.getxattr(path, "user.oci.layer")
        d["data"] = path.read_bytes() if full else None
    return d


DECIDED = ["etc/motd", "etc/big", "etc/sparse", "etc/fifo", "etc/null", "etc/dir", "etc/dir/in", "opq", "opq/new", "was-dir", "etc"]


@pytest.mark.parametrize("rerun", [False, True])
def test_a_file_of_an_upper_layer_is_read_while_a_lower_layer_stalls(early, rerun):
    e = early(env={"OP_RERUN": "1"} if rerun else None)
    assert (e.root / "etc/motd").read_bytes() == b"new\n"
    assert (e.root / "etc/big").read_bytes() == BIG
    assert (e.root / "etc/sparse").read_bytes() == SPARSE.content
    assert (e.root / "was-dir").read_bytes() == b"file"
    assert os.getxattr(e.root / "etc/motd", "user.oci.layer") == b"02"
    assert os.listxattr(e.root / "etc/motd") == ["user.x"]
    with pytest.raises(OSError) as x:
        os.getxattr(e.root / "etc/motd", "user.overlay.z")
    assert x.value.errno == errno.ENODATA
    # the middle layer is there, too
    assert (e.root / "middle").read_bytes() == b"middle"
    assert (e.root / "etc/middle").read_bytes() == b"m" * 70_000
    st = os.lstat(e.root / "etc/motd")
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime, st.st_nlink) == (0o604, 7, 8, 77, 1)
    st = os.lstat(e.root / "etc")
    assert (stat.S_IMODE(st.st_mode), st.st_gid, st.st_mtime) == (0o755, 2, 8)
    assert stat.S_IMODE(os.lstat(e.root).st_mode) == 0o755 and os.lstat(e.root).st_uid == 1


def test_a_name_that_an_upper_layer_removes_is_absent_while_a_lower_layer_stalls(early):
    e = early()
    for name in ("gone", "gone/x", "opq/old", "opq/never", ".wh.gone", "etc/.wh..wh..opq", "opq/.wh..wh..opq"):
        with pytest.raises(FileNotFoundError):
            os.lstat(e.root / name)
    for name in ("was-dir/x", "was-dir/x/y", "etc/motd/x"):
        with pytest.raises(NotADirectoryError):
            os.lstat(e.root / name)


@pytest.mark.parametrize("what", ["etc/low", "low/a", "etc/link", "etc/pair1", "etc/pair2", "linked", "nowhere", "etc", "."])
def test_what_lower_layers_may_decide_waits_for_them(early, what):
    """Files of lower layers, links, files with several names, listings."""
    e = early()
    assert (e.root / "etc/motd").read_bytes() == b"new\n"
    p = e.waits("ls", "-a", e.root / what) if what in ("etc", ".") else e.waits("stat", "-c", "%s %h", e.root / what)
    e.gate.set()
    if what == "nowhere":
        assert b"No such file" in p.communicate(timeout=30)[1]
        return
    out = e.answer(p)
    expected = {"etc/low": b"3 1\n", "low/a": b"1 1\n", "etc/link": b"3 1\n", "etc/pair1": b"1 2\n", "etc/pair2": b"1 2\n", "linked": b"1 2\n"}
    if what in expected:
        assert out == expected[what]
    else:
        assert {b"motd", b"low", b"middle"} <= set(out.split()) if what == "etc" else {b"target", b"middle", b"opq"} <= set(out.split())


def test_the_attributes_of_a_directory_made_up_by_an_upper_layer_wait_for_the_lower_one_that_gives_them(early):
    e = early()
    p = e.waits("stat", "-c", "%a %u %Y", e.root / "made")
    e.gate.set()
    assert e.answer(p) == b"710 5 9\n"
    assert sorted(os.listdir(e.root / "made")) == ["new", "old"]


@pytest.mark.parametrize("rerun", [False, True])
def test_nothing_changes_when_the_tree_comes(early, rerun):
    """Attributes, inode numbers, xattrs and contents; what listings say; link counts of directories become true."""
    e = early(env={"OP_RERUN": "1"} if rerun else None)
    before = {p: seen(e.root / p) for p in DECIDED}
    held = os.open(e.root / "etc/big", os.O_RDONLY)
    place = os.open(e.root / "etc/dir", os.O_PATH)
    assert os.pread(held, 100, 5000) == BIG[5000:5100]
    assert os.lstat(e.root / "etc").st_nlink == 1
    e.gate.set()
    names = {n: (i, t) for n, i, t in getdents(os.fsencode(e.root / "etc"))}
    after = {p: seen(e.root / p) for p in DECIDED}
    assert after == before
    for p in DECIDED[:7]:
        if p.count("/") == 1:
            assert names[os.fsencode(p[4:])][0] == before[p]["st_ino"], p
    e.until(lambda: os.lstat(e.root / "etc").st_nlink == 3, 5)
    assert os.lstat(e.root / "etc/dir").st_nlink == 2
    assert names[b"."][0] == os.lstat(e.root / "etc").st_ino
    inside = {n: i for n, i, _ in getdents(os.fsencode(e.root / "etc/dir"))}
    assert inside[b".."] == os.lstat(e.root / "etc").st_ino and inside[b"in"] == before["etc/dir/in"]["st_ino"]
    # handles and places
    assert os.pread(held, 100, 250_000) == BIG[250_000:250_100]
    assert os.fstat(held).st_ino == before["etc/big"]["st_ino"]
    assert os.stat("in", dir_fd=place).st_ino == before["etc/dir/in"]["st_ino"]
    assert os.fstat(place).st_ino == before["etc/dir"]["st_ino"]
    os.close(held), os.close(place)
    tree = treecmp.snapshot(e.root)
    assert tree[b"etc/pair1"].group == (b"etc/pair1", b"etc/pair2") and tree[b"linked"].group == (b"linked", b"target")
    # the whole, against a mount that has never been asked early
    other = treecmp.snapshot(e.m.path / "app" / IMAGE.digest / "rootfs")
    treecmp.assert_same(other, tree)


def test_a_working_directory_taken_early_stays_good(early):
    e = early()
    script = "cd $0/etc/dir && cat ../motd && echo in && read x && ls && /bin/pwd && cat in && cd .. && /bin/pwd && ls"
    p = subprocess.Popen(["sh", "-c", script, str(e.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    e.children.append(p)
    assert p.stdout.readline() == b"new\n" and p.stdout.readline() == b"in\n"
    e.gate.set()
    assert len(os.listdir(e.root / "etc")) == 11
    os.lstat(e.root / "etc/dir/in")
    out, err = p.communicate(b"\n", timeout=30)
    assert p.returncode == 0, err
    lines = out.decode().split("\n")
    assert lines[:3] == ["in", f"{e.root}/etc/dir", "in" + f"{e.root}/etc"] and "motd" in lines, lines


def test_the_lower_layers_come_although_nobody_waits_for_them(early):
    e = early()
    assert (e.root / "etc/motd").read_bytes() == b"new\n"
    e.until(lambda: e.m.stats()["fuse_parked"] == 1)
    e.gate.set()
    e.until(lambda: e.m.stats()["layers_indexed"] == 3 and e.m.stats()["fuse_parked"] == 0)
    e.reg.stop()
    assert (e.root / "etc/low").read_bytes() == b"low"
    assert len(os.listdir(e.root / "etc")) == 11


def test_a_reader_that_is_killed_leaves_the_answers_of_others_alone(early):
    e = early()
    p = e.waits("cat", e.root / "etc/low")
    p.kill()
    p.wait(5)
    assert (e.root / "etc/motd").read_bytes() == b"new\n"
    e.gate.set()
    assert (e.root / "etc/low").read_bytes() == b"low"


def test_a_mount_goes_at_once_while_lower_layers_are_on_their_way(early):
    e = early()
    assert (e.root / "etc/motd").read_bytes() == b"new\n"
    start = time.monotonic()
    e.m.umount()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("fault", [faults.flip(), faults.error(404, "BLOB_UNKNOWN"), faults.server_error(500)],
                         ids=["digest", "missing", "500"])
def test_a_lower_layer_that_cannot_be_had_takes_only_its_own_away(early, fault):
    e = early(action=lambda gate: fault)
    assert (e.root / "etc/motd").read_bytes() == b"new\n"
    assert (e.root / "middle").read_bytes() == b"middle"
    for call in (lambda: (e.root / "etc/low").read_bytes(), lambda: os.listdir(e.root), lambda: os.listdir(e.root / "etc"),
                 lambda: os.readlink(e.root / "etc/link"), lambda: os.lstat(e.root / "nowhere")):
        with pytest.raises(OSError) as x:
            call()
        assert x.value.errno == errno.EIO, x.value
    p = subprocess.run(["find", e.root], capture_output=True)
    assert p.returncode == 1 and b"Input/output error" in p.stderr
    assert (e.root / "etc/big").read_bytes() == BIG
    assert BASE.digest[7:19] in (e.m.path / ".control/errors").read_text()


def test_an_upper_layer_that_is_not_what_its_digest_says_answers_nothing(early):
    """Only complete and verified layers answer: not a byte, not a name, not the absence of one."""
    e = early(stalled=(TOP,), action=lambda gate: faults.flip(40))
    for name in ("etc/motd", "gone", "opq/old", "middle", "etc/low"):
        with pytest.raises(OSError) as x:
            os.lstat(e.root / name)
        assert x.value.errno == errno.EIO, (name, x.value)


def test_the_lowest_of_100_layers_is_found(early):
    layers = [Layer([directory("./"), file(f"f{i}", str(i)), *([whiteout(f"f{i - 1}")] if i % 10 == 9 else [])]) for i in range(100)]
    e = early(Image(layers), stalled=())
    assert (e.root / "f0").read_bytes() == b"0"
    with pytest.raises(FileNotFoundError):
        os.lstat(e.root / "f88")
    assert len(os.listdir(e.root)) == 90


# ---- all corner cases of merging, asked while the layers come

def look(top, path, want):
    """A line saying what is wrong, or None."""
    full = os.path.join(top, path)
    try:
        st = os.lstat(full)
    except OSError as x:
        return f"{path}: {x}"
    found = treecmp.Node(treecmp.TYPES[stat.S_IFMT(st.st_mode)], stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, mtime_ns=st.st_mtime_ns)
    if found.type != "d":
        found.nlink = st.st_nlink
    if found.type in "fl":
        found.size = st.st_size
    if found.type == "l":
        found.link = os.readlink(full)
    if found.type == "f":
        found.sha256 = treecmp._hash(full)
    found.xattrs = treecmp._xattrs(full, ("user.oci.",))
    lines = treecmp.diff({path: want}, {path: found}, leave_out=("group",))
    return lines[0] if lines else None


@pytest.mark.parametrize("rerun", [False, True])
def test_every_answer_is_the_merged_trees_at_any_time_while_layers_come(early, rerun):
    image, expected = corner.corner_case_image(compress=("gzip",) * 4)
    e = early(image, stalled=(), options="raw_links", env={"OP_RERUN": "1"} if rerun else None)
    gates = [threading.Event() for _ in image.layers]
    for layer, gate in zip(image.layers, gates):
        e.reg.fault("GET", layer.digest, faults.stall(gate), times=None)
    top, wrong, done = os.fsencode(e.root), [], []
    paths = list(expected)
    names = {p.split(b"/")[-1] for p in paths} - {b"."}

    def ask(number):
        rng = random.Random(number)
        for p in rng.sample(paths, len(paths)):
            line = look(top, p, expected[p])
            if line:
                wrong.append(line)
            absent = os.path.join(os.path.dirname(p), rng.choice(sorted(names)))
            if absent not in expected and os.path.lexists(os.path.join(top, absent)):
                wrong.append(f"{absent}: is there")
        done.append(number)
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for gate in reversed(gates):
        time.sleep(0.4)
        gate.set()
    for t in threads:
        t.join(120)
    assert len(done) == 8 and not wrong, wrong[:20]
    treecmp.assert_same(expected, treecmp.snapshot(e.root))


@pytest.mark.parametrize("tool", ["tar", "find"])
def test_a_walk_that_begins_early_sees_the_whole_tree(early, tool):
    e = early(action=lambda gate: faults.slow(300))
    assert (e.root / "etc/motd").read_bytes() == b"new\n"
    if tool == "tar":
        out = subprocess.run(["tar", "-C", e.root, "-cf", "-", "."], capture_output=True, check=True).stdout
        names = subprocess.run(["tar", "-tf", "-"], input=out, capture_output=True, check=True).stdout.split()
    else:
        names = subprocess.run(["find", e.root], capture_output=True, check=True).stdout.split()
    assert len(names) == len(treecmp.snapshot(e.root)) == 25


