""".image.erofs and `registryfs rootfs`: the kernel's own file system over an image shows what an unpacked image shows.

Needs root and a kernel that mounts EROFS from a file. One that is older than Linux 6.12 has these tests skipped, and said so;
a newer one without EROFS fails them. What needs no such kernel (fsck.erofs, the ways back to FUSE) runs everywhere.
"""
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from lib import corner, faults, hostile, treecmp
from lib.images import Entry, Image, Index, Layer, directory, file, sparse, symlink, write_layout
from lib.rfs import Mount, is_mounted, program
from lib.tocimages import without_annotations
from test_cli import place, user              # noqa: F401  (fixtures)
from test_toc import expected, lazy_image, lower_expected, lower_layer, lying  # noqa: F401
from test_tree import unpacked_once

DONE, FAILED, USAGE, BUSY = 0, 1, 2, 5
sys.setrecursionlimit(10_000)                     # treecmp goes as deep as the deepest tree
MIB = 1 << 20
ROOT = pathlib.Path(__file__).resolve().parents[1]


def missing():
    """What this kernel cannot do, or None."""
    subprocess.run("modprobe -q erofs", shell=True, capture_output=True)
    if tuple(int(n) for n in re.match(r"(\d+)\.(\d+)", os.uname().release).groups()) < (6, 12):
        return "this kernel is older than 6.12 and mounts no EROFS from a file"
    return None


MISSING = missing()
needs_erofs = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def noise(n, seed):
    return hashlib.shake_128(seed.encode()).digest(n)


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def table(path):
    """(type, source, options) of what is mounted at path, the topmost."""
    found = [ln.split() for ln in open("/proc/self/mounts") if ln.split()[1] == str(path)]
    return (found[-1][2], found[-1][0], set(found[-1][3].split(","))) if found else None


def fsck(tools, image, *options):
    """fsck.erofs; it goes into directories with its stack."""
    p = subprocess.run(["bash", "-c", 'ulimit -s unlimited; exec "$@"', "bash", tools("fsck.erofs"), *options, image], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr


@contextlib.contextmanager
def rootfs(m, image, *options, kind="erofs"):
    """`registryfs rootfs m/image DIR`, unmounted in the end by `registryfs umount`."""
    where = m.dir / f"root-{image.replace('/', '-')}"
    where.mkdir(exist_ok=True)
    p = m.run("rootfs", *(["-o", ",".join(options)] if options else []), m.path / image, where, timeout=120)
    try:
        assert p.returncode == DONE, p.stderr
        assert table(where)[0] == kind and (kind != "erofs" or p.stderr == ""), p.stderr
        yield where
    except BaseException:
        subprocess.run(["umount", "-l", where], capture_output=True)
        raise
    p = m.run("umount", where)
    assert (p.returncode, p.stderr) == (DONE, "") and not is_mounted(where)


@pytest.fixture(scope="module")
def bench(tools, benchmark_image):
    with Mount(f"dir:{benchmark_image}") as m:
        yield m


@pytest.fixture
def layouts(tmp_path):
    """layouts({"repo": Image, ...}) -> a SOURCE of them, tagged 1.0."""
    def make(images):
        for name, image in images.items():
            write_layout(tmp_path / "reg" / name, {"1.0": image})
        return f"dir:{tmp_path / 'reg'}"
    return make


ARTIFACT = Image([Layer([file("x")], media_type="application/vnd.example.thing")], artifact_type="application/vnd.example")


def simple(extra=()):
    return Image([Layer([directory("etc"), file("etc/motd", "hello\n"), symlink("abs", "/etc/motd"), *extra])])


# ---- the same tree

@needs_erofs
@pytest.mark.parametrize("variant", ["oci", "ocizstd", "ocifull"])
def test_the_kernel_shows_umocis_tree(bench, benchmark_image, variant):
    """Types, modes, owners, sizes, times, links, devices, attributes and contents: no difference."""
    expected = treecmp.snapshot(unpacked_once(benchmark_image / ("oci" if variant == "ocizstd" else variant)))
    assert len(expected) > (25_000 if variant == "ocifull" else 9_000)
    with rootfs(bench, f"{variant}/1.0") as top:
        treecmp.assert_same(expected, treecmp.snapshot(top))


@needs_erofs
@pytest.mark.parametrize("how", ["gzip", "zstd", "none"])
def test_all_corner_cases_of_merging_and_of_tar(mount, layouts, how):
    image, expected = corner.corner_case_image(compress=(how,) * 4)
    m = mount(layouts({"corner": image}))
    with rootfs(m, "corner/1.0") as top:
        found = treecmp.snapshot(top)
        treecmp.assert_same(expected, found)
        for path, node in found.items():          # `..` and link counts of directories
            if node.type == "d":
                full = os.path.join(os.fsencode(top), path)
                assert os.lstat(full).st_nlink == 2 + sum(e.is_dir(follow_symlinks=False) for e in os.scandir(full))
                if path != b".":
                    assert os.lstat(full + b"/..").st_ino == os.lstat(os.path.dirname(full)).st_ino


@needs_erofs
def test_symbolic_links_have_the_images_own_text(mount, layouts):
    """Whoever makes it his root sees the real thing; through FUSE links are shown so that they stay inside."""
    m = mount(layouts({"app": simple()}))
    with rootfs(m, "app/1.0") as top:
        assert os.readlink(top / "abs") == "/etc/motd" != os.readlink(m.path / "app/1.0/rootfs/abs")


@needs_erofs
def test_an_index_stands_for_the_image_of_its_platform(mount, layouts):
    def of(arch):
        return Image([Layer([file("arch", arch)])], platform=f"linux/{arch}")
    m = mount(layouts({"app": Index([of("amd64"), of("arm64")])}), options="platform=linux/arm64")
    with rootfs(m, "app/1.0") as top:
        assert (top / "arch").read_text() == "arm64"
    with rootfs(m, "app/1.0/platforms/linux-amd64") as top:
        assert (top / "arch").read_text() == "amd64"


def test_what_is_behind_the_end_of_a_file_is_zeros(mount, layouts):
    """Whoever maps the last page of a file must not see what follows it in the archive."""
    m = mount(layouts({"app": Image([Layer([file("a", "x" * 100), file("b", "y" * 5000)], compress="none")])}))
    data = (m.path / "app/1.0/.image.erofs").read_bytes()
    for content in (b"x" * 100, b"y" * 5000):
        at = data.index(content)
        end = at + len(content)
        assert at % 4096 == 0 and not any(data[end:(end + 4095) // 4096 * 4096])


@needs_erofs
def test_holes_are_zeros_wherever_the_archive_has_its_data(mount, layouts):
    """Extents that begin and end within blocks, which chunks of the kernel's could not express."""
    pieces = [(70_007, b"abc"), (70_011, b"d"), (170_010, noise(5000, "tail"))]
    entries = {kind: sparse(f"d/{kind}", pieces, 200_000, kind) for kind in ("0.0", "0.1", "1.0", "gnu")}
    m = mount(layouts({"app": Image([Layer(entries.values())])}))
    with rootfs(m, "app/1.0") as top:
        for kind, e in entries.items():
            assert (top / "d" / kind).read_bytes() == e.content


def huge(name, size, offset, data):
    """A sparse file, only described."""
    return Entry(b"GNUSparseFile.0/" + name.encode(), b"0", data,
                 pax=[(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"1"),
                      (b"GNU.sparse.map", b"%d,%d" % (offset, len(data))), (b"GNU.sparse.name", name.encode())])


@needs_erofs
def test_a_sparse_file_of_a_tebibyte(mount, layouts):
    size, end = 1 << 40, noise(5, "end")
    m = mount(layouts({"app": Image([Layer([huge("big", size, size - len(end), end)])])}))
    with rootfs(m, "app/1.0") as top, open(top / "big", "rb") as f:
        assert os.fstat(f.fileno()).st_size == size
        assert os.pread(f.fileno(), 100, size - 8) == bytes(3) + end
        assert os.pread(f.fileno(), 4096, size // 2) == bytes(4096)


@needs_erofs
def test_overlayfs_has_it_as_its_lower_directory(mount, layouts, tmp_path):
    m = mount(layouts({"app": simple()}))
    disk = tmp_path / "disk"
    for d in ("u", "w", "merged"):
        (disk / d).mkdir(parents=True)
    with rootfs(m, "app/1.0") as top:
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={top},upperdir={disk}/u,workdir={disk}/w", disk / "merged"], check=True)
        try:
            (disk / "merged/etc/motd").write_text("changed\n")
            assert (disk / "merged/etc/motd").read_text() == "changed\n" and (top / "etc/motd").read_text() == "hello\n"
        finally:
            subprocess.run(["umount", disk / "merged"], check=True)


# ---- layers with a table of contents

@needs_erofs
@pytest.mark.parametrize("variant", ["estargz", "estargz-shared", "stargz-zstd", "containers"])
def test_names_come_from_the_table_of_contents_and_contents_when_they_are_read(mount, fakereg, lazy_image, expected, variant):
    fakereg.add("app", lazy_image(variant), "1.0")
    m = mount(fakereg.url)
    with rootfs(m, "app/1.0") as top:
        found = treecmp.snapshot(top, leave_out=("sha256",))
        treecmp.assert_same(expected, found, leave_out=("sha256",))
        stats = m.stats()
        assert (stats["toc_layers"], stats["layers_indexed"], stats["toc_granules"]) == (2, 0, 0)
        treecmp.assert_same(expected, treecmp.snapshot(top))
        assert m.stats()["layers_indexed"] == 0


@needs_erofs
def test_the_same_image_once_lazy_and_once_streamed_in_one_cache(mount, fakereg, lazy_image, expected, tmp_path):
    """The trees differ in where data are; the file system of one must not be read by the other's."""
    fakereg.add("app", lazy_image("estargz"), "1.0")
    fakereg.add("app", Image([without_annotations(la) for la in lazy_image("estargz").layers]), "2.0")
    m = mount(fakereg.url)
    for _ in range(2):
        with rootfs(m, "app/1.0") as one, rootfs(m, "app/2.0") as two:
            for top in (one, two):
                treecmp.assert_same(expected, treecmp.snapshot(top))
        m.umount()
        m.start()


@needs_erofs
def test_a_table_that_lies_about_the_blob_shows_no_wrong_byte(mount, fakereg, lower_layer, lower_expected):
    """The layer turns out to be another while it is mounted: true bytes, or EIO."""
    fakereg.add("app", Image([lying(lower_layer, "usr/share/f150", "etc/motd")]), "1.0")
    m = mount(fakereg.url)
    with rootfs(m, "app/1.0") as top:
        for _ in range(2):
            drop_caches()
            for path, node in lower_expected.items():
                if node.type == "f":
                    try:
                        data = open(os.path.join(os.fsencode(top), path), "rb").read()
                        assert hashlib.sha256(data).hexdigest() == node.sha256, path
                    except OSError as e:
                        assert e.errno == errno.EIO


# ---- the file

def test_the_file_is_not_listed_and_answers(mount, layouts, tmp_path):
    m = mount(layouts({"app": simple(), "art": ARTIFACT}))
    image = m.path / "app" / "1.0"
    assert ".image.erofs" not in os.listdir(image)
    st = os.stat(image / ".image.erofs")
    assert stat.S_ISREG(st.st_mode) and st.st_size % 4096 == 0
    with pytest.raises(OSError) as e:
        os.stat(m.path / "art/1.0/.image.erofs")
    assert e.value.errno == errno.ENOENT
    with pytest.raises(OSError):
        open(image / ".image.erofs", "r+b")


def test_the_same_image_gives_the_same_bytes_however_they_are_read(mount, layouts):
    source = layouts({"corner": corner.corner_case_image()[0]})
    one, two = mount(source), mount(source, options="raw_links")
    whole = (one.path / "corner/1.0/.image.erofs").read_bytes()
    digest = (one.path / "corner/1.0/digest").read_text().strip()
    assert whole == (two.path / "corner" / digest / ".image.erofs").read_bytes()
    two.umount()
    two.start()
    with open(two.path / "corner/1.0/.image.erofs", "rb", buffering=0) as f:
        for off in [*range(0, len(whole), 40_961), len(whole) - 5, len(whole), len(whole) + 5000]:
            assert os.pread(f.fileno(), 9_999, off) == whole[off:off + 9_999], off


@pytest.mark.parametrize("variant", ["oci", "ocifull"])
def test_fsck_erofs_finds_nothing_wrong(tools, bench, variant):
    fsck(tools, bench.path / variant / "1.0/.image.erofs")


def test_fsck_erofs_finds_nothing_wrong_with_corner_cases_and_extracts_them(tools, mount, layouts, tmp_path):
    """A second program that reads the format. It drops set-user-id bits, times of directories and attributes."""
    image, expected = corner.corner_case_image()
    m = mount(layouts({"corner": image}))
    out = tmp_path / "out"
    fsck(tools, m.path / "corner/1.0/.image.erofs", f"--extract={out}", "--overwrite")
    found = treecmp.snapshot(out, leave_out=("xattrs",))
    treecmp.assert_same(expected, found, only=("type", "uid", "gid", "size", "link", "rdev", "sha256"))


@pytest.mark.parametrize("name", sorted(hostile.hostile_images()))
def test_hostile_images_make_sound_file_systems_or_none(tools, tmp_path, name):
    write_layout(tmp_path / "reg" / "bad", {"1.0": hostile.hostile_images()[name]})
    with Mount(f"dir:{tmp_path / 'reg'}") as m:
        image = m.path / "bad/1.0"
        try:
            os.stat(image / ".image.erofs")
        except OSError:
            with pytest.raises(OSError):          # then there is no tree either
                os.listdir(image / "rootfs")
            return
        fsck(tools, image / ".image.erofs")
        if not MISSING:
            with rootfs(m, "bad/1.0") as top:
                treecmp.assert_same(treecmp.snapshot(image / "rootfs"), treecmp.snapshot(top), leave_out=("link", "size", "nlink", "group", "xattrs"))


@needs_erofs
def test_xattrs_that_steer_overlayfs_are_not_shown(mount, layouts):
    m = mount(layouts({"bad": hostile.hostile_images()["overlay-xattrs"]}))
    with rootfs(m, "bad/1.0") as top:
        for d, _, names in os.walk(top):
            for n in [d, *(os.path.join(d, n) for n in names)]:
                assert not [x for x in os.listxattr(n, follow_symlinks=False) if "overlay" in x]


# ---- large

def memory_peak(m):
    return next(int(ln.split()[1]) << 10 for ln in open(f"/proc/{m.pid}/status") if ln.startswith("VmHWM"))


def check_many(m, image, count):
    with rootfs(m, image) as top:
        assert sum(len(f) + len(d) for _, d, f in os.walk(top)) == count


@needs_erofs
def test_a_hundred_thousand_entries_in_one_directory(mount, layouts):
    names = [f"d/{i:05}" + "x" * 250 if i % 1000 == 0 else f"d/{i:05}" for i in range(100_000)]
    m = mount(layouts({"app": Image([Layer([file(n, mode=0o600 + i % 8) for i, n in enumerate(names)])])}))
    with rootfs(m, "app/1.0") as top:
        assert sorted(os.listdir(top / "d")) == sorted(n[2:] for n in names)
        for i in (0, 1, 999, 1000, 50_000, 99_999):
            assert os.stat(top / names[i]).st_mode & 0o777 == 0o600 + i % 8
        for absent in ("d/000000", "d/99999x", "d/!", "d/~"):
            assert not os.path.exists(top / absent)


@pytest.mark.long
@needs_erofs
def test_a_million_entries_in_bounded_memory(mount, layouts):
    """What the tree costs (test_hostile.py), and once the metadata: some 100 bytes a file."""
    m = mount(layouts({"app": hostile.many_entries(1_000_000)}))
    check_many(m, "app/1.0", 1_000_000 + 1_000)
    sanitized = b"__asan_init" in pathlib.Path(program()).read_bytes()
    assert memory_peak(m) < (3 if sanitized else 1) * 768 * MIB + sanitized * 350 * MIB, memory_peak(m) >> 20


def test_an_image_that_does_not_fit_is_refused_in_words_and_shown_through_fuse(mount, layouts):
    m = mount(layouts({"app": simple([huge(f"big{i}", 1 << 43, 0, b"x") for i in range(3)])}))
    with pytest.raises(OSError) as e:
        os.stat(m.path / "app/1.0/.image.erofs")
    assert e.value.errno == errno.EFBIG
    assert "too large for an EROFS image" in (m.path / ".control/errors").read_text()
    with rootfs(m, "app/1.0", kind="fuse.registryfs") as top:
        assert (top / "etc/motd").read_text() == "hello\n"


# ---- the command

@needs_erofs
def test_rootfs_is_read_only_nosuid_and_nodev_unless_asked(mount, layouts):
    m = mount(layouts({"app": simple()}))
    with rootfs(m, "app/1.0") as top:
        kind, source, options = table(top)
        assert source == "app/1.0/.image.erofs" and {"ro", "nosuid", "nodev"} <= options and "noexec" not in options
        with pytest.raises(OSError) as e:
            (top / "etc/new").write_text("x")
        assert e.value.errno == errno.EROFS
    with rootfs(m, "app/1.0", "suid", "dev", "noexec") as top:
        assert "ro" in table(top)[2] and {"nosuid", "nodev"}.isdisjoint(table(top)[2]) and "noexec" in table(top)[2]


@pytest.mark.parametrize("options, want", [((), {"nosuid", "nodev"}), (("noexec",), {"nosuid", "nodev", "noexec"})])
def test_fuse_in_its_place_is_read_only_too(mount, layouts, options, want):
    m = mount(layouts({"app": simple()}))
    with rootfs(m, "app/1.0", "fuse", *options, kind="fuse.registryfs") as top:
        assert want | {"ro"} <= table(top)[2]
        assert (top / "etc/motd").read_text() == "hello\n" and os.listdir(top / "etc") == ["motd"]
        p = m.run("status", top)
        assert p.returncode == DONE and "shows     /app/1.0/rootfs" in p.stdout


def test_an_image_cannot_make_umount_wait_for_a_process_it_names(mount, layouts):
    """The bound rootfs has what the image has, also under the name that umount asks for."""
    lie = [directory(".control"), file(".control/info.json", json.dumps({"pid": 1}))]
    m = mount(layouts({"app": simple(lie)}))
    with rootfs(m, "app/1.0", "fuse", kind="fuse.registryfs") as top:
        assert json.loads((top / ".control/info.json").read_text()) == {"pid": 1}


def test_rootfs_refuses_in_one_sentence(mount, layouts, tmp_path):
    m = mount(layouts({"app": simple(), "art": ARTIFACT}))
    here = tmp_path / "here"
    here.mkdir()

    def refused(words, *args, status=FAILED):
        p = m.run("rootfs", *args)
        subprocess.run(["umount", "-l", here], capture_output=True)
        assert p.returncode == status and p.stdout == "" and p.stderr.count("\n") == 1 and words in p.stderr, p.stderr
    refused("usage: registryfs rootfs", status=USAGE)
    refused("usage: registryfs rootfs", m.path / "app/1.0", status=USAGE)
    refused("the nearest is suid", "-o", "siud", m.path / "app/1.0", here, status=USAGE)
    refused("there can be one", "-o", "erofs,fuse", m.path / "app/1.0", here, status=USAGE)
    refused("not the directory of an image", m.path / "app", here)
    refused("not the directory of an image", m.path / "art/1.0", here)
    refused("not the directory of an image", m.path / "app/1.0/layers", here)
    refused("No such file or directory", m.path / "app/9.9", here)
    refused("No such file or directory", m.path / "app/1.0", tmp_path / "nowhere")
    refused("is not a directory", m.path / "app/1.0", ROOT / "README.md")
    refused("not below a mount of registryfs", tmp_path, here)


def test_only_root_may(mount, layouts, tmp_path):
    m = mount(layouts({"app": simple()}))
    exe = tmp_path / "registryfs"
    shutil.copy(program(), exe)
    subprocess.run(["chmod", "-R", "a+rX", tmp_path.parent, tmp_path], check=True)
    p = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", exe, "rootfs", m.path / "app/1.0", "/mnt"],
                       capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"], "HOME": "/"})
    assert p.returncode == FAILED and "only root may mount" in p.stderr and "/app/1.0/rootfs shows the same" in p.stderr


def test_the_kernel_is_not_made_to_trust_another_users_mount(user, fakereg):
    """Root gets that one's tree through FUSE, whatever EROFS could do: the kernel parses only what root's own process serves."""
    fakereg.add("app", simple(), "1.0")
    u = user(fakereg.url, "allow_other")
    (u.m.dir / "fuse.conf").write_text("user_allow_other\n")
    u.root("mount", "--bind", u.m.dir / "fuse.conf", "/etc/fuse.conf")
    u.mount()
    where = u.m.dir / "where"
    where.mkdir()
    p = u.root(program(), "rootfs", u.m.path / "app/1.0", where)
    assert p.returncode == DONE and "through FUSE instead" in p.stderr and "mounted by user 65534" in p.stderr, p.stderr
    assert u.root("cat", where / "etc/motd").stdout == "hello\n"
    p = u.root(program(), "umount", where)
    assert (p.returncode, p.stderr) == (DONE, "")
    p = u.root(program(), "rootfs", "-o", "erofs", u.m.path / "app/1.0", where)
    assert p.returncode == FAILED and "mounted by user 65534" in p.stderr
    assert u.run("umount", u.m.path).returncode == DONE and u.m.wait(10) == 0


def test_in_a_user_namespace_fuse_takes_its_place(mount, layouts, tmp_path):
    m = mount(layouts({"app": simple()}))
    (tmp_path / "d").mkdir()
    p = subprocess.run(["unshare", "-Urm", "bash", "-euc", '"$1" rootfs "$2/app/1.0" "$3"; cat "$3/etc/motd"; "$1" umount "$3"', "bash",
                        program(), m.path, tmp_path / "d"], env=m.env, capture_output=True, text=True, timeout=60)
    assert p.returncode == 0 and p.stdout == "hello\n", p.stderr
    assert "through FUSE instead: mounting EROFS is not permitted here" in p.stderr


# ---- its end

@needs_erofs
def test_a_mount_in_use_by_rootfs_says_so(mount, layouts):
    m = mount(layouts({"app": simple()}))
    with rootfs(m, "app/1.0") as top:
        p = m.run("umount", m.path)
        assert p.returncode == BUSY and "perhaps by what `registryfs rootfs` has mounted on" in p.stderr and str(top) in p.stderr
        assert "an image, as EROFS" in m.run("status", top).stdout


@needs_erofs
def test_a_detached_mount_lives_as_long_as_rootfs(mount, layouts):
    m = mount(layouts({"app": simple([file("big", noise(3 * MIB, "big"))])}))
    with rootfs(m, "app/1.0") as top:
        assert m.run("umount", "-l", m.path).returncode == DONE and not is_mounted(m.path)
        drop_caches()
        assert (top / "big").read_bytes() == noise(3 * MIB, "big")
    assert m.wait(10) == 0


@needs_erofs
def test_when_the_daemon_dies_uncached_reads_fail_and_unmounting_works(mount, layouts):
    m = mount(layouts({"app": simple([file("big", noise(5 * MIB, "big")), file("small", "s")])}), clean=False)
    with rootfs(m, "app/1.0") as top:
        assert (top / "small").read_text() == "s"
        os.kill(m.pid, signal.SIGKILL)
        m.wait(10)
        assert (top / "small").read_text() == "s"          # in the kernel's cache
        for _ in range(2):
            with pytest.raises(OSError) as e:
                (top / "big").read_bytes()
            assert e.value.errno in (errno.EIO, errno.ENOTCONN)
        assert m.run("status", top).returncode == DONE


@needs_erofs
def test_sigterm_while_it_is_mounted(mount, layouts):
    """The daemon goes; nothing hangs."""
    m = mount(layouts({"app": simple([file("big", noise(3 * MIB, "big"))])}), clean=False)
    with rootfs(m, "app/1.0") as top:
        os.kill(m.pid, signal.SIGTERM)
        ended = m.wait(5) is not None
        try:
            drop_caches()
            assert (top / "big").read_bytes() == noise(3 * MIB, "big")
            assert not ended
        except OSError:
            assert ended
    assert m.wait(10) is not None


@needs_erofs
def test_a_tag_that_moves_leaves_what_is_mounted_alone(mount, fakereg):
    fakereg.add("app", simple([file("v", "one")]), "1.0")
    m = mount(fakereg.url, options="tag_ttl=0")
    with rootfs(m, "app/1.0") as top:
        fakereg.add("app", simple([file("v", "two"), file("more", "m")]), "1.0")
        (m.path / ".control/refresh").write_text("1")
        assert (m.path / "app/1.0/rootfs/v").read_text() == "two"
        drop_caches()
        assert (top / "v").read_text() == "one" and not (top / "more").exists()
        again = m.dir / "again"
        again.mkdir()
        assert m.run("rootfs", m.path / "app/1.0", again).returncode == DONE
        assert (again / "v").read_text() == "two"
        assert m.run("umount", again).returncode == DONE


# ---- data that come back, and data that do not

def layered(n, size):
    return Image([Layer([file(f"l{i}/f{k}", noise(size, f"{i}.{k}")) for k in range(4)], compress=("gzip", "zstd", "none")[i % 3]) for i in range(n)])


def digests(top):
    return {os.path.relpath(os.path.join(d, n), top): hashlib.sha256(pathlib.Path(d, n).read_bytes()).hexdigest()
            for d, _, names in os.walk(top) for n in names}


@pytest.fixture
def tight(mount, fakereg):
    """An image of 48 MiB in a cache of 16, and what it holds."""
    fakereg.add("app", layered(6, 2 * MIB), "1.0")
    want = {f"l{i}/f{k}": hashlib.sha256(noise(2 * MIB, f"{i}.{k}")).hexdigest() for i in range(6) for k in range(4)}
    return mount(fakereg.url, options="cache_size=16M"), want


@needs_erofs
def test_what_the_cache_has_dropped_comes_back_by_range_while_it_is_mounted(tight, fakereg):
    m, want = tight
    with rootfs(m, "app/1.0") as top:
        assert digests(top) == want
        drop_caches()
        fakereg.reset()
        assert digests(top) == want
        assert fakereg.count("blob_get") > 0 and fakereg.count("manifest_get") == 0
        assert m.stats()["cache_evicted_bytes"] > 0
        drop_caches()
        errors = []

        def work():
            try:
                assert digests(top) == want
            except BaseException as e:
                errors.append(e)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(300)
        assert not errors


@needs_erofs
def test_wrong_bytes_from_the_registry_are_eio_and_never_data(tight, fakereg):
    m, want = tight
    with rootfs(m, "app/1.0") as top:
        assert digests(top) == want
        drop_caches()
        fakereg.fault("GET", "/blobs/", faults.flip(1000), times=None)
        failed = 0
        for name, digest in want.items():
            try:
                assert hashlib.sha256((top / name).read_bytes()).hexdigest() == digest
            except OSError as e:
                assert e.errno == errno.EIO
                failed += 1
        assert failed > 0 and "layer" in (m.path / ".control/errors").read_text()
        fakereg.clear_faults()
        end = time.monotonic() + 60              # a failure is believed for a moment
        while time.monotonic() < end:
            try:
                assert digests(top) == want
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("it does not recover")


@needs_erofs
def test_names_stay_when_the_cache_loses_them_while_it_is_mounted(mount, fakereg):
    fakereg.add("app", layered(3, MIB), "1.0")
    m = mount(fakereg.url)
    with rootfs(m, "app/1.0") as top:
        for f in (m.dir / "cache" / "registryfs" / "tree").rglob("sha*"):
            f.unlink(missing_ok=True)
        drop_caches()
        assert sorted(os.listdir(top)) == ["l0", "l1", "l2"] and len(digests(top)) == 12


def test_a_layer_with_a_wrong_digest_is_eio_in_words(mount, fakereg, tmp_path):
    fakereg.add("app", simple(), "1.0")
    fakereg.fault("GET", "/blobs/", faults.flip(30), times=None)
    m = mount(fakereg.url)
    (tmp_path / "d").mkdir()
    p = m.run("rootfs", m.path / "app/1.0", tmp_path / "d")
    assert p.returncode == FAILED and "Input/output error" in p.stderr and ".control/errors" in p.stderr
    assert not is_mounted(tmp_path / "d")
    with pytest.raises(OSError) as e:
        os.stat(m.path / "app/1.0/.image.erofs")
    assert e.value.errno == errno.EIO


@needs_erofs
def test_a_restart_needs_no_layer_and_a_damaged_image_is_made_again(mount, fakereg, tmp_path):
    fakereg.add("app", layered(2, MIB), "1.0")
    m = mount(fakereg.url)
    with rootfs(m, "app/1.0") as top:
        want = digests(top)
    for damage in (lambda d: d, lambda d: d[:1100] + b"\xff" + d[1101:], lambda d: d[:-40], lambda d: b""):
        m.umount()
        found = [p for p in (m.dir / "cache" / "registryfs" / "tree").rglob("*-erofs-*")]
        assert len(found) == 1
        found[0].write_bytes(damage(found[0].read_bytes()))
        fakereg.reset()
        m.start()
        with rootfs(m, "app/1.0") as top:
            assert digests(top) == want
        assert fakereg.count("blob_get") == 0
