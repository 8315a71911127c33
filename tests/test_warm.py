"""`registryfs warm`: what is below a path is brought here, so that it can be read when the registry is gone."""
import os
import pathlib
import pty
import random
import re
import select
import signal
import subprocess
import time

import pytest

from lib import faults, rfs, treecmp
from lib.images import Image, Index, Layer, directory, file, whiteout
from lib.tarwriter import tar_chunks
from lib.tocimages import toc_layer

NOISE = random.Random(11).randbytes(16 << 20)


def entries():
    lower = [directory("etc"), file("etc/motd", "hello\n"), directory("usr"), directory("usr/lib"), directory("usr/share")]
    lower += [file(f"usr/lib/l{i}", NOISE[i << 20:(i << 20) + 700_000]) for i in range(12)]
    lower += [file(f"usr/share/s{i}", NOISE[i * 1000:i * 1000 + 300_000]) for i in range(12)]
    return lower, [whiteout("etc/motd"), directory("opt"), file("opt/big", NOISE[:5 << 20]), file("opt/empty", b"")]


def plain(compress="gzip"):
    return Image([Layer(e, compress) for e in entries()])


@pytest.fixture(scope="session")
def image_of(tools):
    made = {}

    def image(how):
        if how not in made:
            made[how] = plain(how) if how in ("gzip", "zstd", "none") else \
                Image([toc_layer(b"".join(tar_chunks(e, bytes(1024))), how) for e in entries()])
        return made[how]
    return image


def blobs(reg):
    return [r for r in reg.requests() if "/blobs/" in r.path and r.method == "GET"]


def snapshot(m, below="rootfs"):
    return treecmp.snapshot(m.path / "app/1.0" / below)


def spans(m):
    return [f for f in pathlib.Path(m.dir).rglob("span/*/*") if f.is_file()]


def held(m, path="app/1.0"):
    return [int(x) for x in os.getxattr(m.path / path, "user.registryfs.held").decode().split()]


# ---- what it promises

@pytest.mark.parametrize("how", ["gzip", "zstd", "none", "estargz", "zstdchunked-containers"])
def test_what_was_warmed_can_be_read_without_the_registry(make_fakereg, mount, image_of, how):
    reg = make_fakereg()
    reg.add("app", image_of(how), "1.0")
    m = mount(reg.url)
    done = m.run("warm", m.path / "app/1.0", check=True)
    assert re.fullmatch(rf"{m.path}/app/1.0: [\d.]+ MiB here, [\d.]+ MiB of it fetched in [\d.]+ s\n", done.stdout), done.stdout
    assert done.stderr == "", "no progress without a terminal"
    assert held(m)[0] == held(m)[1] > 5 << 20
    fuse_bytes = m.stats()["fuse_read_bytes"]
    assert fuse_bytes < 1 << 20, "the data went through the kernel"
    reg.stop()
    there = snapshot(m)
    assert (m.path / "app/1.0/rootfs/opt/big").read_bytes() == NOISE[:5 << 20]
    (m.path / "app/1.0/config.json").read_bytes()
    for i in range(2):
        assert os.listdir(m.path / f"app/1.0/layers/{i:02}")
    assert snapshot(m) == there


def test_warming_twice_fetches_once(fakereg, mount, image_of):
    fakereg.add("app", image_of("estargz"), "1.0")
    m = mount(fakereg.url)
    m.run("warm", m.path / "app/1.0", check=True)
    fakereg.reset()
    again = m.run("warm", m.path / "app/1.0", m.path / "app/1.0/rootfs/usr", check=True)
    assert not blobs(fakereg), fakereg.dump()
    assert again.stdout.count(" 0.0 MiB of it fetched") == 2


def test_of_a_layer_with_a_table_only_the_parts_below_are_fetched(fakereg, mount, image_of):
    image = image_of("estargz")
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    m.run("warm", m.path / "app/1.0/rootfs/usr/share", check=True)
    whole = sum(len(la.blob) for la in image.layers)
    assert fakereg.bytes_sent() < 0.5 * whole
    fakereg.reset()
    for i in range(12):
        assert (m.path / f"app/1.0/rootfs/usr/share/s{i}").read_bytes() == NOISE[i * 1000:i * 1000 + 300_000]
    assert not blobs(fakereg), fakereg.dump()
    m.run("warm", m.path / "app/1.0/rootfs/usr/lib/l5", check=True)
    assert 0 < fakereg.bytes_sent() < 0.2 * whole
    fakereg.reset()
    m.run("warm", m.path / "app/1.0/layers/01", check=True)
    assert any(image.layers[1].digest in r.path for r in blobs(fakereg)) and held(m, "app/1.0/layers/01")[0] > 4 << 20
    (m.path / "app/1.0/rootfs/opt/empty").read_bytes()
    m.run("warm", m.path / "app/1.0/rootfs/opt/empty", check=True)


@pytest.mark.parametrize("how", ["gzip", "estargz"])
def test_few_requests_for_a_whole_image(fakereg, mount, image_of, how):
    fakereg.add("app", image_of(how), "1.0")
    m = mount(fakereg.url)
    m.run("warm", m.path / "app/1.0", check=True)
    assert len(blobs(fakereg)) <= {"gzip": 3, "estargz": 14}[how], fakereg.dump()


@pytest.mark.parametrize("how", ["gzip", "estargz"])
def test_what_was_evicted_is_fetched_again(fakereg, mount, image_of, how):
    fakereg.add("app", image_of(how), "1.0")
    m = mount(fakereg.url)
    m.run("warm", m.path / "app/1.0", check=True)
    m.umount()
    lost = sorted(spans(m))[::2]
    for f in lost:
        f.unlink()
    fakereg.reset()
    m.start()
    have, total = held(m)
    assert 0 < have < total
    m.run("warm", m.path / "app/1.0", check=True)
    assert 0 < len(blobs(fakereg)) <= len(lost)
    assert len(spans(m)) >= len(lost) and held(m) == [total, total]


def test_an_index_means_the_image_for_this_machine(fakereg, mount, image_of):
    fakereg.add("app", Index([image_of("estargz"), Image([Layer([file("other", NOISE[:1 << 20])])], platform="linux/riscv64")]), "1.0")
    m = mount(fakereg.url)
    m.run("warm", m.path / "app/1.0", check=True)
    fakereg.reset()
    snapshot(m)
    assert not blobs(fakereg), fakereg.dump()


def test_blobs_and_artifacts(fakereg, mount):
    layer = Layer([file("big", NOISE[:1 << 20])])
    fakereg.add("app", Image([layer]), "1.0")
    m = mount(fakereg.url)
    assert held(m, "app/1.0/layers/00.tar.gz")[0] == 0
    m.run("warm", m.path / "app/1.0/layers/00.tar.gz", check=True)
    assert held(m, "app/1.0/layers/00.tar.gz")[0] == len(layer.blob)
    fakereg.reset()
    assert (m.path / "app/1.0/layers/00.tar.gz").read_bytes() == layer.blob
    assert not blobs(fakereg)


# ---- what it cannot do, and says

@pytest.mark.parametrize("how", ["gzip", "estargz"])
def test_a_cache_that_is_too_small_is_said_before_anything_is_fetched(fakereg, mount, how):
    big = random.Random(3).randbytes(40 << 20)
    layer = Layer([file("big", big)], how) if how == "gzip" else toc_layer(b"".join(tar_chunks([file("big", big)], bytes(1024))), how)
    fakereg.add("app", Image([layer]), "1.0")
    m = mount(fakereg.url, options="cache_size=20M")
    p = m.run("warm", m.path / "app/1.0")
    assert p.returncode == 1 and "room for 20.0 MiB" in p.stderr and "cache_size" in p.stderr, p.stderr
    assert fakereg.bytes_sent() < 2 << 20, fakereg.dump()


def test_places_that_cannot_be_warmed(fakereg, mount, image_of, tmp_path):
    fakereg.add("app", image_of("gzip"), "1.0")
    m = mount(fakereg.url)
    assert m.run("warm", tmp_path).returncode == 3
    assert m.run("warm").returncode == 2 and m.run("warm", "--all").returncode == 2
    p = m.run("warm", m.path / "app/1.0/nothing")
    assert p.returncode == 1 and "No such file" in p.stderr
    p = m.run("warm", m.path / "app", m.path / "app/1.0/digest")
    assert p.returncode == 1 and "only an image's directory" in p.stderr and "digest: 0.0 MiB here" in p.stdout


def test_a_registry_that_fails_is_said_with_its_reason(fakereg, mount, image_of):
    image = image_of("gzip")
    fakereg.add("app", image, "1.0")
    fakereg.fault("GET", f"/v2/app/blobs/{image.layers[0].digest}", faults.status(403), times=None)
    m = mount(fakereg.url, clean=False)
    p = m.run("warm", m.path / "app/1.0")
    assert p.returncode == 1 and image.layers[0].digest in p.stderr and "403" in p.stderr, p.stderr
    m.umount()


@pytest.mark.parametrize("how", ["gzip", "estargz"])
def test_ctrl_c_ends_it_at_once(fakereg, mount, image_of, how):
    image = image_of(how)
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    if how == "estargz":
        os.listdir(m.path / "app/1.0/rootfs")
    fakereg.fault("GET", f"/v2/app/blobs/{image.layers[0].digest}", faults.slow(200_000), times=None)
    before = m.stats()["http_blob_requests"]
    p = subprocess.Popen([rfs.program(), "warm", m.path / "app/1.0"], env=m.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, start_new_session=True)
    end = time.monotonic() + 20
    while m.stats()["http_blob_requests"] == before and time.monotonic() < end:
        time.sleep(0.02)
    assert p.poll() is None
    began = time.monotonic()
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=10)
    assert p.returncode == 130 and "interrupted" in err and out == "", (p.returncode, err)
    while m.stats()["http_active"] and time.monotonic() < began + 5:
        time.sleep(0.02)
    assert time.monotonic() - began < 5 and m.stats()["http_active"] == 0


def test_a_kill_ends_it_too(fakereg, mount, image_of):
    image = image_of("gzip")
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    fakereg.fault("GET", f"/v2/app/blobs/{image.layers[0].digest}", faults.slow(100_000), times=None)
    p = subprocess.Popen([rfs.program(), "warm", m.path / "app/1.0"], env=m.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while m.stats()["http_blob_requests"] == 0 and time.monotonic() < end:
        time.sleep(0.02)
    assert p.poll() is None and m.stats()["http_active"] > 0
    p.kill()
    p.wait(10)
    end = time.monotonic() + 5
    while m.stats()["http_active"] and time.monotonic() < end:
        time.sleep(0.02)
    assert m.stats()["http_active"] == 0


def test_a_terminal_shows_how_far_it_is(fakereg, mount, image_of):
    image = image_of("gzip")
    fakereg.add("app", image, "1.0")
    fakereg.fault("GET", f"/v2/app/blobs/{image.layers[0].digest}", faults.slow(8 << 20), times=None)
    m = mount(fakereg.url)
    master, slave = pty.openpty()
    p = subprocess.Popen([rfs.program(), "warm", m.path / "app/1.0"], env=m.env, stdout=slave, stderr=slave, close_fds=True)
    os.close(slave)
    seen = b""
    while select.select([master], [], [], 30)[0]:
        try:
            got = os.read(master, 65536)
        except OSError:
            break
        if not got:
            break
        seen += got
    assert p.wait() == 0
    text = seen.decode()
    shown = [float(x) for x in re.findall(r"([\d.]+) of [\d.]+ MiB", text)]
    assert len(shown) >= 3 and shown == sorted(shown) and "MiB/s" in text and " left" in text, text
    assert text.rstrip().endswith("s") and "MiB here" in text.split("\033[K")[-1]
    os.close(master)


def test_a_dying_mount_ends_it(fakereg, mount, image_of):
    image = image_of("gzip")
    fakereg.add("app", image, "1.0")
    fakereg.fault("GET", f"/v2/app/blobs/{image.layers[0].digest}", faults.slow(100_000), times=None)
    m = mount(fakereg.url)
    p = subprocess.Popen([rfs.program(), "warm", m.path / "app/1.0"], env=m.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 20
    while m.stats()["http_blob_requests"] == 0 and time.monotonic() < end:
        time.sleep(0.02)
    subprocess.run(["umount", "-l", m.path], check=True)
    os.kill(m.pid, signal.SIGTERM)
    assert p.wait(15) == 1
    p.communicate()

