"""Data that comes before anybody reads it: recorded lists, landmarks, the rest of an image in the background."""
import errno
import os
import pathlib
import random
import shutil
import threading
import time

import pytest

from lib import faults, treecmp
from lib.images import Image, Layer, directory, file
from lib.tarwriter import tar_chunks
from lib.tocimages import toc_layer, with_toc

NOISE = random.Random(23).randbytes(24 << 20)
FILES = [f"usr/lib/f{i:02}" for i in range(24)]


def content(i):
    return NOISE[i << 20:(i << 20) + 900_000]


def tar():
    entries = [directory("usr"), directory("usr/lib"), directory("etc")]
    entries += [file(name, content(i)) for i, name in enumerate(FILES)]
    return b"".join(tar_chunks(entries + [file("etc/motd", "hello\n")], bytes(1024)))


@pytest.fixture(scope="session")
def layer_of(tools):
    made = {}

    def layer(how="estargz", **options):
        key = (how, *sorted(options.items()))
        if key not in made:
            made[key] = toc_layer(tar(), how, **options)
        return made[key]
    return layer


@pytest.fixture
def image(layer_of):
    return Image([layer_of()])


def blobs(reg):
    return [r for r in reg.requests() if "/blobs/" in r.path and r.method == "GET"]


def control(m):
    return m.path / "app/1.0/.control/prefetch"


def lists(m):
    d = pathlib.Path(m.dir) / "state/registryfs/first"
    return sorted(d.iterdir()) if d.exists() else []


def look(m, repo="app"):
    """The first look into an image, and what it starts, to the end."""
    os.listdir(m.path / repo / "1.0/rootfs")
    settle(m)


def settle(m, seconds=60):
    end = time.monotonic() + seconds
    quiet = 0
    while time.monotonic() < end and quiet < 3:
        s = m.stats()
        quiet = quiet + 1 if s["prefetch_left_bytes"] == 0 and s["http_active"] == 0 else 0
        time.sleep(0.05)
    assert quiet == 3, m.stats()


def read(m, name):
    return (m.path / "app/1.0/rootfs" / name).read_bytes()


def forget_data(m):
    """Ends the mount and empties its cache; what was learnt stays."""
    m.umount()
    shutil.rmtree(m.dir / "cache" / "registryfs")


# ---- recorded lists

def test_files_used_first_are_fetched_first_by_the_next_cold_mount(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    used = ["etc/motd"] + [FILES[i] for i in (20, 3, 11, 4, 17)]
    for name in used + used[:3]:
        read(m, name)
    assert control(m).read_text() == "".join(f"/{n}\n" for n in used)
    forget_data(m)
    assert [p.read_text() for p in lists(m)] == ["".join(f"/{n}\n" for n in used)]
    m.start()
    look(m)
    s = m.stats()
    assert s["prefetch_lists"] == 1 and 5 * 800_000 < s["prefetch_received_bytes"] < 12_000_000, s
    fakereg.reset()
    for name in used:
        read(m, name)
    assert read(m, FILES[20]) == content(20)
    assert not blobs(fakereg), fakereg.dump()
    assert control(m).read_text() == "".join(f"/{n}\n" for n in used)


def test_a_list_can_be_given_to_another_machine(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    wanted = [FILES[2], "/" + FILES[9], "nothing/here", "/usr/lib", "../../etc/passwd", "//etc/motd"]
    control(m).write_text("# what the first one has seen\n\n" + "\n".join(wanted) + "\n")
    text = control(m).read_text()
    assert text.startswith("# set by hand\n# what the first one has seen\n") and text.endswith("\n".join(wanted) + "\n")
    m.umount()
    m.start()
    look(m)
    assert m.stats()["prefetch_lists"] == 1
    fakereg.reset()
    assert read(m, FILES[2]) == content(2) and read(m, FILES[9]) == content(9)
    assert not blobs(fakereg), fakereg.dump()
    for name in FILES:
        read(m, name)
    m.umount()
    assert [p.read_text() for p in lists(m)] == [text], "what was set is not replaced by what was seen"
    m.start()
    control(m).write_text("\n")
    assert control(m).read_text() == "" and lists(m) == []
    read(m, FILES[1])
    m.umount()
    assert lists(m) == [], "what was cleared stays so while that mount lasts"


def test_what_is_read_through_erofs_is_recorded_too(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    assert content(3) in (m.path / "app/1.0/.image.erofs").read_bytes()
    assert sorted(control(m).read_text().split()) == sorted("/" + n for n in FILES + ["etc/motd"])


def test_a_longer_record_replaces_a_shorter_one_and_not_the_other_way_round(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    for many in (2, 7, 1):
        for name in FILES[:many]:
            read(m, name)
        m.umount()
        m.start()
    assert lists(m)[0].read_text().count("\n") == 7


def test_the_option_turns_it_off(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    read(m, FILES[5])
    forget_data(m)
    m.options.append("prefetch=no")
    m.start()
    look(m)
    assert m.stats()["prefetch_requests"] == 0
    for name in FILES:
        read(m, name)
    m.umount()
    assert lists(m)[0].read_text() == f"/{FILES[5]}\n"


def test_what_is_here_is_not_fetched_again(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    for name in FILES[:8]:
        read(m, name)
    m.umount()
    fakereg.reset()
    m.start()
    look(m)
    assert not blobs(fakereg) and m.stats()["prefetch_lists"] == 0


def test_streamed_layers_get_back_what_was_evicted(fakereg, mount):
    fakereg.add("app", Image([Layer(tar=tar())]), "1.0")
    m = mount(fakereg.url)
    read(m, FILES[1])
    read(m, FILES[22])
    m.umount()
    for f in pathlib.Path(m.dir).rglob("span/*/*"):
        f.unlink()
    fakereg.reset()
    m.start()
    look(m)
    assert 0 < len(blobs(fakereg)) <= 3 and m.stats()["prefetch_lists"] == 1
    fakereg.reset()
    assert read(m, FILES[1]) == content(1) and read(m, FILES[22]) == content(22)
    assert not blobs(fakereg), fakereg.dump()


@pytest.mark.parametrize("value,error", [(b"/a\0b\n", errno.EINVAL), (b"/" + b"x" * 5000 + b"\n", errno.EINVAL), (b"/no/line/end", errno.EINVAL),
                                         (b"/a\n" * 500_000, errno.EFBIG)])
def test_nonsense_is_no_list(fakereg, mount, image, value, error):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    os.listdir(m.path / "app/1.0")
    failures = []
    fd = os.open(control(m), os.O_WRONLY | os.O_TRUNC)
    try:
        while value:
            value = value[os.write(fd, value):]
    except OSError as e:
        failures.append(e.errno)
    try:
        os.close(fd)
    except OSError as e:
        failures.append(e.errno)
    assert failures and failures[0] == error
    if error == errno.EINVAL:
        assert lists(m) == []
    assert read(m, FILES[0]) == content(0)


def test_a_long_list_of_nothing_costs_little(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    control(m).write_text("/x\n" * 300_000)
    m.umount()
    m.start()
    began = time.monotonic()
    look(m)
    assert time.monotonic() - began < 15 and m.stats()["prefetch_requests"] == 0


@pytest.mark.parametrize("junk", [b"\0" * 1000, os.urandom(100_000), b"/x" * 2_000_000, b""])
def test_a_spoilt_list_on_disk_is_none(fakereg, mount, image, junk):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    read(m, FILES[0])
    m.umount()
    lists(m)[0].write_bytes(junk)
    m.start()
    look(m)
    assert read(m, FILES[0]) == content(0)
    control(m).read_bytes()


def test_lists_do_not_grow_without_end(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    read(m, FILES[0])
    d = pathlib.Path(m.dir) / "state/registryfs/first"
    d.mkdir(parents=True)
    for i in range(1100):
        (d / f"sha256-{i:064x}").write_text("/x\n")
        os.utime(d / f"sha256-{i:064x}", (i, i))
    m.umount()
    names = [p.name for p in lists(m)]
    assert len(names) == 1100 and f"sha256-{0:064x}" not in names


# ---- read-ahead

class Crowd:
    """Answers slowly, and notes how many were waiting at once."""

    def __init__(self, seconds):
        self.seconds, self.now, self.most, self.lock = seconds, 0, 0, threading.Lock()

    def __call__(self, request, proper):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        return proper()


def test_who_reads_on_in_an_evicted_layer_finds_the_next_spans_on_their_way(fakereg, mount):
    layer = Layer([file("big", NOISE * 2)], "none")
    fakereg.add("app", Image([layer]), "1.0")
    m = mount(fakereg.url, options="prefetch=no")
    with open(m.path / "app/1.0/rootfs/big", "rb") as f:
        f.read(10)
    m.umount()
    spans = [f for f in pathlib.Path(m.dir).rglob("span/*/*")]
    assert len(spans) == 13
    for f in spans:
        f.unlink()
    m.start()
    crowd = Crowd(0.3)
    fakereg.fault("GET", f"/v2/app/blobs/{layer.digest}", crowd, times=None)
    fakereg.reset()
    with open(m.path / "app/1.0/rootfs/big", "rb") as f:
        assert f.read() == NOISE * 2
    s = m.stats()
    assert s["read_ahead_spans"] >= 8 and len(blobs(fakereg)) == s["spans_refilled"] == 13, (s, fakereg.dump())
    assert crowd.most >= 3
    assert m.rss() < 200 << 20


def test_who_jumps_about_is_given_nothing(fakereg, mount):
    layer = Layer([file("big", NOISE * 2)], "none")
    fakereg.add("app", Image([layer]), "1.0")
    m = mount(fakereg.url, options="prefetch=no")
    os.listdir(m.path / "app/1.0/rootfs")
    m.umount()
    for f in pathlib.Path(m.dir).rglob("span/*/*"):
        f.unlink()
    m.start()
    fakereg.reset()
    with open(m.path / "app/1.0/rootfs/big", "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for span in (11, 2, 7):
            f.seek((span << 22) + 1_000_000)
            assert f.read(100) == (NOISE * 2)[(span << 22) + 1_000_000:][:100]
    assert len(blobs(fakereg)) == 3 and m.stats()["read_ahead_spans"] == 0


# ---- landmarks

def test_what_the_builder_has_marked_comes_with_the_first_look(fakereg, mount, layer_of):
    layer = layer_of(prio=f"{FILES[21]},{FILES[13]}")
    fakereg.add("app", Image([layer]), "1.0")
    m = mount(fakereg.url)
    look(m)
    s = m.stats()
    assert 1_500_000 < s["prefetch_received_bytes"] < 5_000_000 and s["prefetch_lists"] == 0, s
    fakereg.reset()
    assert read(m, FILES[21]) == content(21) and read(m, FILES[13]) == content(13)
    assert not blobs(fakereg), fakereg.dump()
    assert not os.path.lexists(m.path / "app/1.0/rootfs/.prefetch.landmark")


def test_without_a_mark_nothing_comes(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    look(m)
    assert m.stats()["prefetch_requests"] == 0


@pytest.mark.parametrize("offset", [1 << 40, -1])
def test_a_landmark_beyond_the_blob(fakereg, mount, layer_of, offset):
    def change(doc):
        next(e for e in doc["entries"] if e["name"].endswith("prefetch.landmark"))["offset"] = offset
    fakereg.add("app", Image([with_toc(layer_of(prio=FILES[3]), change)]), "1.0")
    m = mount(fakereg.url)
    look(m)
    assert read(m, FILES[3]) == content(3) and m.stats()["toc_fallbacks"] == 1


# ---- the rest, in the background

def test_complete_fetches_the_rest_of_what_is_used(make_fakereg, mount, image):
    reg = make_fakereg()
    reg.add("app", image, "1.0")
    m = mount(reg.url, options="complete")
    assert read(m, "etc/motd") == b"hello\n"
    settle(m)
    reg.stop()
    assert [read(m, n) for n in FILES] == [content(i) for i in range(24)]
    treecmp.snapshot(m.path / "app/1.0/rootfs")
    info = (m.path / "app/1.0/.control/info.json").read_text()
    assert f'"cached_bytes": {len(image.layers[0].blob)},' in info, info


def test_what_is_only_listed_is_not_completed(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url, options="complete")
    os.listdir(m.path / "app")
    os.stat(m.path / "app/1.0/digest")
    os.listdir(m.path / "app/1.0")
    time.sleep(0.3)
    assert not [r for r in blobs(fakereg) if image.layers[0].digest in r.path]


def test_the_background_keeps_to_its_rate_and_ends_at_once(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url, options="complete,background_rate=2M")
    os.listdir(m.path / "app/1.0/rootfs")
    before = m.stats()["http_received_bytes"]
    began = time.monotonic()
    time.sleep(2)
    s = m.stats()
    got, took = s["http_received_bytes"] - before, time.monotonic() - began
    assert 1 << 20 < got < (took + 2.5) * (2 << 20), (got, took)
    assert s["prefetch_left_bytes"] > 10 << 20
    status = m.run("status", m.path, check=True).stdout
    assert "in the background" in status and "MiB to come" in status, status
    began = time.monotonic()
    m.umount()
    assert time.monotonic() - began < 5


def test_readers_go_first(fakereg, mount, layer_of):
    """While somebody waits for a fetch, what nobody waits for is held back."""
    fakereg.add("app", Image([layer_of()]), "1.0")
    slow = layer_of(chunk=100_000)
    fakereg.add("other", Image([slow]), "1.0")
    m = mount(fakereg.url, options="complete")
    fakereg.fault("GET", f"/v2/other/blobs/{slow.digest}", faults.slow(300_000), times=None)
    os.listdir(m.path / "other/1.0/rootfs")
    os.listdir(m.path / "app/1.0/rootfs")
    began = time.monotonic()
    assert read(m, FILES[23]) == content(23)
    assert time.monotonic() - began < 15
    assert m.stats()["prefetch_left_bytes"] > 0


def test_an_image_that_does_not_fit_is_not_completed(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url, options="complete,cache_size=16M")
    os.listdir(m.path / "app/1.0/rootfs")
    time.sleep(1)
    assert m.stats()["prefetch_requests"] == 0
    assert read(m, FILES[7]) == content(7)


def test_a_registry_that_fails_in_the_background_is_nobodys_error(fakereg, mount, image):
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url, options="complete")
    seen = []

    def table_only(request, proper):
        seen.append(request)
        return proper() if len(seen) == 1 else faults.status(403)(request, proper)
    fakereg.fault("GET", f"/v2/app/blobs/{image.layers[0].digest}", table_only, times=None)
    os.listdir(m.path / "app/1.0/rootfs")
    time.sleep(0.5)
    assert len(seen) > 1 and (m.path / ".control/errors").read_text() == "" and m.stats()["prefetch_left_bytes"] == 0
