"""The registry that misbehaves: the errno of DESIGN.md 3.4, a sentence that says why, nothing partial, nothing leaked,
nothing wrong in the cache, and recovery within seconds. The registry is tests/lib/fakereg.py, bent by tests/lib/faults.py.
"""
import concurrent.futures
import email.utils
import errno
import hashlib
import json
import os
import pathlib
import re
import subprocess
import threading
import time

import pytest

from lib import faults, images
from lib.fakereg import INDEX, MANIFEST, BlobHost, digest_of
from lib.httpfake import Listener, Response
from lib.images import Image, Index, Layer, file
from lib.rfs import program

SANITIZED = b"__asan_init" in pathlib.Path(program()).read_bytes()      # freed memory stays for a while
GONE_AFTER = 12          # seconds within which every failure must be forgotten without anybody's help
ATTEMPTS = 4             # PO_ATTEMPTS_MAX: what one operation may cost a registry that always fails


def fresh_image(name, **kw):
    """An image nobody else has: an uncompressed layer with etc/motd, and a gzipped one with 300 KB."""
    return Image([Layer([file("etc/motd", f"motd of {name}\n")], compress="none"),
                  Layer([file("big", hashlib.shake_256(name.encode()).digest(300_000))])], **kw)


class Target:
    """One kind of request, the system call that causes it, and what it returns when all is well.

    `request` is searched in path?query; `shown` is where the sentence must be: the path itself or its directory.
    """

    def __init__(self, name):
        self.name, self.repo = name, f"t-{name}"
        self.image = fresh_image(name)
        self.layers = [la.digest for la in self.image.layers]
        self.config = self.image.document["config"]["digest"]

    def add(self, reg):
        reg.add(self.repo, self.image, "1.0")

    def result(self):
        i, p, tag = self.image, self.repo, f"{self.repo}/1.0"
        return {
            "tag": (f"{p}/manifests/1.0", f"{tag}/digest", "read", (i.digest + "\n").encode()),
            "manifest": (f"{p}/manifests/sha256", f"{p}/{i.digest}/manifest.json", "read", i.manifest),
            "config": (f"{p}/blobs/{self.config}", f"{tag}/config.json", "read", i.config),
            "layer": (f"{p}/blobs/{self.layers[0]}", f"{tag}/rootfs/etc/motd", "read", b"motd of layer\n"),
            "tree": (f"{p}/blobs/{self.layers[1]}", f"{tag}/rootfs", "list", ["big", "etc"]),
            "blob": (f"{p}/blobs/{self.layers[1]}", f"{tag}/layers/01.tar.gz", "read", i.layers[1].blob),
            "tags": (f"{p}/tags/list", p, "list", ["1.0"]),
            "referrers": (f"{p}/referrers/|{p}/manifests/sha256-", f"{tag}/referrers", "list", []),
        }[self.name]

    request = property(lambda self: self.result()[0])
    path = property(lambda self: self.result()[1])

    def call(self, m):
        _, path, how, _ = self.result()
        return (m.path / path).read_bytes() if how == "read" else sorted(os.listdir(m.path / path))

    def right(self, m):
        assert self.call(m) == self.result()[3], self.name


TARGETS = ("tag", "manifest", "config", "layer", "tree", "blob", "tags", "referrers")


def failure(call, *args):
    """The errno of a call that must fail."""
    try:
        got = call(*args)
    except OSError as e:
        return e.errno
    raise AssertionError(f"succeeded: {str(got)[:200]}")


def xattr_of(m, path):
    """user.registryfs.error of the path, else of the nearest directory above it that has one."""
    path = m.path / path
    while path != m.path.parent:
        try:
            return os.getxattr(path, "user.registryfs.error").decode()
        except OSError:
            path = path.parent
    return ""


def errors_of(m, repo=""):
    return "\n".join(ln for ln in (m.path / ".control/errors").read_text().splitlines() if repo in ln)


def says(m, path, words, repo=None):
    """A sentence that matches is in .control/errors, in the xattr and in the log."""
    repo = repo if repo is not None else path.split("/")[0]
    assert re.search(words, errors_of(m, repo)), f"{path}: .control/errors says\n{errors_of(m, repo) or errors_of(m)}"
    assert re.search(words, xattr_of(m, path)), f"{path}: the xattr says {xattr_of(m, path)!r}"
    assert re.search(words, m.log), f"{path}: the log says\n{m.log}"


def refresh(m):
    (m.path / ".control/refresh").write_text("1")


def eventually(check, seconds=GONE_AFTER):
    end = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (OSError, AssertionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.25)


def check_cache(m):
    """Every object of the cache that is kept as it came has the digest it is filed under."""
    n = 0
    for path in (m.dir / "cache").rglob("sha256-*"):
        what, hexa, data = path.parts[-3], path.name.split("-")[1][:64], path.read_bytes()
        seal = data.rindex(b"RGFSSEAL")                  # cache/sealed.h: data, table, footer
        data = data[:int.from_bytes(data[seal + 16:seal + 24], "little")]
        if what == "blob":
            assert hashlib.sha256(data).hexdigest() == hexa, path
            n += 1
        elif what == "manifest":                         # JSON, then its media type
            assert hashlib.sha256(data[:data.rindex(b"}") + 1]).hexdigest() == hexa, path
            n += 1
    return n


def poison_free(m, poison):
    """Bytes that only the fault sent are nowhere on disk."""
    p = subprocess.run(["grep", "-rlF", poison, m.dir / "cache", m.dir / "state"], capture_output=True, text=True)
    assert p.stdout == "", p.stdout


@pytest.fixture
def world(tmp_path, mount, make_fakereg):
    """world() -> (registry with a repository per target, mount). world.again(): a new mount on the same cache."""
    class World:
        def __call__(self, options="", targets=TARGETS, **kw):
            self.reg = make_fakereg(**kw)
            self.targets = [Target(t) for t in targets]
            for t in self.targets:
                t.add(self.reg)
            self.options = options
            self.m = mount(self.reg.url, options=options or (), keep=tmp_path / "m")
            return self.reg, self.m

        def again(self):
            self.m.umount()
            self.m = mount(self.reg.url, options=self.options or (), keep=tmp_path / "m")
            return self.m

        def all_fail(self, action, expected, words, most=ATTEMPTS, times=None):
            """Every target under this fault: its errno, its words, a bounded number of requests."""
            rules = [self.reg.fault("*", t.request, action, times=times) for t in self.targets]
            with concurrent.futures.ThreadPoolExecutor(len(self.targets)) as pool:
                jobs = [pool.submit(failure, t.call, self.m) for t in self.targets]
                got = {t.name: j.result(60) for t, j in zip(self.targets, jobs)}
            wrong = {n: errno.errorcode[g] for n, g in got.items()
                     if g not in (expected.get(n, expected["*"]) if isinstance(expected, dict) else expected)}
            assert not wrong, f"{wrong}\n{errors_of(self.m)}"
            for t in self.targets:
                says(self.m, t.path, words)
            for t, rule in zip(self.targets, rules):
                assert 1 <= rule.hits <= most, (t.name, rule.hits, self.reg.dump())

        def recovers(self, by_itself=False):
            """The fault is gone: all is right here, and in a new mount on the same cache."""
            self.reg.clear_faults()
            if not by_itself:
                refresh(self.m)
            for t in self.targets:
                eventually(lambda t=t: t.right(self.m), GONE_AFTER if by_itself else 1)
            check_cache(self.m)
            m = self.again()
            for t in self.targets:
                t.right(m)
            assert m.stats()["cache_corrupt"] == 0
    return World()


# ---- answers that say no: errno, words, bounded

EIO, EACCES, ENOENT, ETIMEDOUT = ({e} for e in (errno.EIO, errno.EACCES, errno.ENOENT, errno.ETIMEDOUT))

FOR_EVER = {
    # name: (action, errno, words, requests one operation may cost)
    "403": (lambda: faults.error(403, "DENIED", "requested access is denied"), EACCES, r"HTTP 403", 2),
    "404 in HTML": (lambda: faults.html(404), EIO, r"404.*not a registry's answer", 3),
    "404 without a body": (lambda: faults.status(404), EIO, r"404.*not a registry's answer", 3),
    "404 with another code": (lambda: faults.error(404, "UNKNOWN"), EIO, r"HTTP 404", 3),
    "429": (lambda: faults.too_many(None), EIO, r"429.*too many requests", ATTEMPTS),
    "500": (lambda: faults.error(500, "UNKNOWN", "disk on fire"), EIO, r"(?=.*HTTP 500)", ATTEMPTS),
    "503": (lambda: faults.server_error(503), EIO, r"HTTP 503", ATTEMPTS),
    "502 in HTML": (lambda: faults.html(502), EIO, r"HTTP 502", ATTEMPTS),
    "503 that says MANIFEST_UNKNOWN": (lambda: faults.error(503, "MANIFEST_UNKNOWN"), EIO, r"HTTP 503", ATTEMPTS),
    # libcurl sends a request again by itself when a connection that it reused turns out to be dead
    "reset": (faults.reset, EIO, r"connection to 127.0.0.1:\d+ broke|no answer", 3 * ATTEMPTS),
    "close": (faults.close, EIO, r"connection to 127.0.0.1:\d+ broke|no answer", 3 * ATTEMPTS),
    "400": (lambda: faults.status(400, b"what?"), EIO, r"HTTP 400", 2),
    "418": (lambda: faults.status(418, b"teapot"), EIO, r"HTTP 418", 2),
    "redirect loop": (lambda: faults.redirect("{path}"), EIO, r"redirects more than \d+ times", 30),
    "redirect to nowhere": (lambda: faults.status(307), EIO, r"redirect that leads nowhere", 2),
    "redirect to the metadata service": (faults.redirect_metadata, EACCES, r"link-local.*169\.254\.169\.254.*refused", 2),
    "redirect to a file": (lambda: faults.redirect("file:///etc/passwd"), EIO | EACCES | {errno.EINVAL}, r"redirect", 2),
}


@pytest.mark.parametrize("name", FOR_EVER)
def test_every_request_that_fails_for_ever_gives_its_errno_and_a_sentence_in_bounded_tries(world, name):
    action, expected, words, most = FOR_EVER[name]
    reg, m = world()
    # referrers: a 404 of the API is "not offered", and the fallback tag is asked then
    world.all_fail(action(), expected, words, most=2 * most if name.startswith("404") or name == "400" else most)
    world.recovers()


def test_unknown_names_are_enoent_and_the_parts_of_an_image_that_are_missing_are_not(world):
    """ENOENT makes rsync delete: a layer that has vanished must not make its files look absent."""
    reg, m = world()
    codes = {"tag": "MANIFEST_UNKNOWN", "manifest": "MANIFEST_UNKNOWN", "tags": "NAME_UNKNOWN"}
    for t in world.targets:
        if t.name != "referrers":
            reg.fault("*", t.request, faults.error(404, codes.get(t.name, "BLOB_UNKNOWN")), times=None)
    got = {t.name: failure(t.call, m) for t in world.targets if t.name != "referrers"}
    want = {"tag": errno.ENOENT, "manifest": errno.ENOENT, "tags": errno.ENOENT, "config": errno.EIO, "layer": errno.EIO,
            "tree": errno.EIO, "blob": errno.EIO}
    assert got == want, {n: errno.errorcode[e] for n, e in got.items()}
    for t in world.targets:
        if t.name in ("config", "layer", "tree", "blob"):
            says(m, t.path, r"BLOB_UNKNOWN.*HTTP 404")
    world.recovers()


def test_a_tag_that_appears_is_seen_within_seconds(world):
    reg, m = world(targets=("tag",))
    assert failure(os.stat, m.path / "t-tag/2.0") == errno.ENOENT
    reg.repo("t-tag").tags["2.0"] = world.targets[0].image.digest
    eventually(lambda: os.stat(m.path / "t-tag/2.0"), 8)


def test_failures_are_forgotten_within_seconds_without_help(world):
    """Failed look-ups, listings and reads leave nothing behind: not in the kernel, not in the daemon."""
    reg, m = world()
    world.all_fail(faults.server_error(503), EIO, r"HTTP 503")
    world.recovers(by_itself=True)


def test_a_refusal_is_forgotten_within_seconds_without_help(world):
    reg, m = world()
    world.all_fail(faults.error(403, "DENIED"), EACCES, r"HTTP 403", most=2)
    world.recovers(by_itself=True)


def test_a_failure_is_not_asked_about_again_at_once(world):
    """`find` over a dead registry does not hammer it."""
    reg, m = world(targets=("tags",))
    rule = reg.fault("*", "t-tags/tags/list", faults.server_error(503), times=None)
    for _ in range(20):
        assert failure(os.listdir, m.path / "t-tags") == errno.EIO
    assert rule.hits <= 2 * ATTEMPTS, rule.hits


# ---- silence

def test_a_registry_that_never_answers_gives_etimedout_after_the_timeout(world):
    reg, m = world(options="timeout=2")
    gate = threading.Event()
    start = time.monotonic()
    world.all_fail(faults.stall(gate), ETIMEDOUT, r"sent nothing for \d+ seconds", most=2)
    assert 1.5 < time.monotonic() - start < 9
    gate.set()
    world.recovers()


def test_a_body_that_stops_for_ever_gives_etimedout_and_leaves_nothing(world):
    reg, m = world(options="timeout=2", targets=("manifest", "config", "layer", "tree", "blob", "tags"))
    gate = threading.Event()
    start = time.monotonic()
    world.all_fail(faults.stall_body(7, gate), ETIMEDOUT, r"sent nothing for \d+ seconds", most=2)
    assert 1.5 < time.monotonic() - start < 9
    gate.set()
    world.recovers()


def test_a_body_that_comes_slowly_is_no_stall(world):
    reg, m = world(options="timeout=2", targets=("blob",))
    t = world.targets[0]
    reg.fault("GET", t.request, faults.slow(100_000))
    t.right(m)


def test_a_registry_that_is_gone_is_unreachable_and_what_is_cached_is_served(world):
    reg, m = world(options="tag_ttl=1", targets=("tag", "layer", "blob"))
    tag, layer, blob = world.targets
    layer.right(m)
    os.listdir(m.path / layer.repo)
    reg.stop()
    time.sleep(2.2)                                      # past the ttl of tag and lists
    layer.right(m)                                       # served stale, and the log says so
    assert "serving what is cached" in m.log
    assert os.listdir(m.path / layer.repo) == ["1.0"]
    for t in (tag, blob):
        assert failure(t.call, m) in (errno.EHOSTUNREACH, errno.EIO)
        says(m, t.path, r"cannot be reached: Connection refused")
    m.umount()
    p = m.run("-f", reg.url, m.path, timeout=30)         # not a mount that shows nothing
    assert p.returncode != 0 and re.search("cannot be reached", p.stdout + p.stderr), p
    reg.start()
    m.start()
    for t in world.targets:
        t.right(m)


# ---- transient troubles: nobody notices

TRANSIENT = {
    "503 twice": (lambda: faults.server_error(503), 2, 0),
    "502 in HTML once": (lambda: faults.html(502), 1, 0),
    "429 without a time": (lambda: faults.too_many(None), 1, 0),
    "429 with Retry-After: 1": (lambda: faults.too_many(1), 1, 1.0),
    "503 with Retry-After: 1": (lambda: faults.error(503, "UNAVAILABLE", headers={"Retry-After": "1"}), 1, 1.0),
    "reset once": (faults.reset, 1, 0),
    "closed twice": (faults.close, 2, 0),
    "408": (lambda: faults.status(408), 1, 0),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_transient_failures_are_tried_again_and_nobody_notices(world, name):
    action, times, least = TRANSIENT[name]
    reg, m = world()
    for t in world.targets:
        reg.fault("*", t.request, action(), times=times)
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(world.targets)) as pool:
        list(pool.map(lambda t: t.right(m), world.targets))
    assert least <= time.monotonic() - start < least + 12
    assert m.stats()["http_retries"] >= (1 if "reset" in name or "close" in name else len(world.targets) * times)
    assert errors_of(m) == ""


def test_retry_after_as_a_date_is_honoured(world):
    reg, m = world(targets=("tags",))
    when = email.utils.formatdate(time.time() + 3, usegmt=True)
    reg.fault("GET", "t-tags/tags/list", faults.too_many(when))
    start = time.monotonic()
    world.targets[0].right(m)
    assert 1 < time.monotonic() - start < 8


@pytest.mark.parametrize("code", [429, 503])
def test_a_retry_after_that_is_too_long_fails_at_once_and_says_when(world, code):
    reg, m = world()
    start = time.monotonic()
    world.all_fail(faults.error(code, "TOOMANYREQUESTS", headers={"Retry-After": "3600"}), EIO,
                   rf"(?=.*{code})(?=.*(in|after) (3600 s|1 h|60 min))", most=1)
    assert time.monotonic() - start < 8
    world.recovers()


# ---- bytes that are not what they should be

def poisoned(name):
    """An image whose etc/motd says POISON, in the size of the real one."""
    return b"POISON-OF-" + name.encode()


WRONG = {
    "flipped": (lambda: faults.flip(20), r"(?i)wrong bytes|digest|does not match"),
    "flipped at the end": (lambda: faults.flip(-3), r"(?i)wrong bytes|digest|does not match"),
    "one byte more": (lambda: faults.wrong_size(1), r"(?i)wrong bytes|digest|does not match|too many bytes|size"),
    "one byte less": (lambda: faults.wrong_size(-1), r"(?i)wrong bytes|digest|does not match|too few bytes|size"),
    "much more": (lambda: faults.wrong_size(2 << 20), r"(?i)wrong bytes|digest|does not match|too many bytes|size"),
    "empty": (lambda: faults.replace_body(b""), r"(?i)wrong bytes|digest|does not match|too few bytes|empty|size"),
    "another body": (lambda: faults.replace_body(b"POISON" * 100), r"(?i)wrong bytes|digest|does not match|bytes|size"),
    "an HTML page": (lambda: faults.replace_body(b"<html>POISON</html>", "text/html"), r"(?i)wrong bytes|digest|match|bytes|size"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bytes_are_eio_with_a_sentence_and_never_kept(world, name):
    action, words = WRONG[name]
    reg, m = world(targets=("manifest", "config", "layer", "tree", "blob"))
    for t in world.targets:                              # the tag's HEAD is asked before: only bodies are wrong
        reg.fault("GET", t.request, action(), times=None)
    for t in world.targets:
        assert failure(t.call, m) == errno.EIO, t.name
        says(m, t.path, words)
    poison_free(m, "POISON")
    assert m.stats()["integrity_failures"] >= len(world.targets)
    world.recovers()


@pytest.mark.parametrize("target", ["layer", "config"])
def test_wrong_bytes_in_the_right_size_are_not_shown_even_for_a_moment(world, target):
    """The bytes of a good tar (or JSON) that is not the one the digest names."""
    reg, m = world(targets=(target,))
    t = world.targets[0]
    if target == "layer":
        good = t.image.layers[0].blob
        bad = good.replace(b"motd of layer", b"POISON POISON")
    else:
        good = t.image.config
        bad = good.replace(b"/bin/sh", b"POISONED"[:7])
    assert len(bad) == len(good) and bad != good
    reg.blobs[digest_of(good)] = bad
    for _ in range(3):
        assert failure(t.call, m) == errno.EIO
    if target == "layer":
        for path in ("rootfs/etc/motd", "layers/00/etc/motd", "layers/00.tar"):
            assert failure((m.path / "t-layer/1.0" / path).read_bytes) == errno.EIO
    poison_free(m, "POISON")
    reg.blobs[digest_of(good)] = good
    world.recovers()


def test_a_manifest_whose_digest_header_lies_is_refused(world):
    reg, m = world(targets=("tag",))
    other = fresh_image("other")
    reg.add("t-tag", other)
    for method in ("HEAD", "GET"):
        reg.fault(method, "t-tag/manifests/1.0", faults.set_header("Docker-Content-Digest", other.digest), times=None)
    # HEAD names an image that exists: that is what the tag is. Its bytes are its own.
    assert (m.path / "t-tag/1.0/digest").read_text() == other.digest + "\n"
    assert (m.path / "t-tag/1.0/manifest.json").read_bytes() == other.manifest
    reg.clear_faults()
    refresh(m)
    reg.fault("HEAD", "t-tag/manifests/1.0", faults.not_supported(), times=None)
    reg.fault("GET", "t-tag/manifests/1.0", faults.set_header("Docker-Content-Digest", other.digest), times=None)
    assert failure(world.targets[0].call, m) == errno.EIO
    says(m, "t-tag/1.0", r"wrong bytes for tag 1.0")
    world.recovers()


def test_a_digest_header_that_is_garbage_is_none(world):
    reg, m = world(targets=("tag",))
    for value in ("sha256:../../../etc/passwd", "x", "sha256:" + "g" * 64, "sha256:" + "A" * 63):
        reg.fault("*", "t-tag/manifests/1.0", faults.set_header("Docker-Content-Digest", value), times=2)
        refresh(m)
        world.targets[0].right(m)


def test_a_layer_that_is_broken_off_is_continued_where_it_was(world):
    reg, m = world(targets=("blob", "tree"))
    for t in world.targets:
        size = len(t.image.layers[1].blob)
        reg.fault("GET", t.request, faults.short_body(100_000))
        reg.fault("GET", t.request, faults.reset_body(50_000))
        t.right(m)
        ranges = [r.headers.get("range") for r in reg.requests(t.request, "GET")]
        assert ranges[0] is None and ranges[1] == "bytes=100000-" + str(size - 1), ranges
        assert sum(r.bytes for r in reg.requests(t.request, "GET")) <= size + 65536
    assert errors_of(m) == ""


@pytest.mark.parametrize("how", ["ignored", "shifted", "416", "absent"])
def test_a_continuation_that_a_server_gets_wrong_still_gives_the_right_bytes(world, how):
    reg, m = world(targets=("blob", "tree"))
    for t in world.targets:
        reg.fault("GET", t.request, faults.short_body(100_000))
        if how == "ignored":
            reg.fault("GET", t.request, faults.ignore_range())
        elif how == "shifted":
            reg.fault("GET", t.request, faults.shift_range(5), times=2)
        elif how == "absent":
            reg.ranges = False
        elif how == "416":
            reg.fault("GET", t.request, faults.error(416, "RANGE_INVALID"), times=None)
            assert failure(t.call, m) == errno.EIO
            says(m, t.path, r"fewer bytes")
            reg.clear_faults()
            refresh(m)
        eventually(lambda t=t: t.right(m), 5)
    world.recovers()


def test_a_body_that_is_always_cut_short_fails_in_bounded_tries(world):
    reg, m = world(targets=("manifest", "config", "layer", "tree", "blob", "tags"))
    for t in world.targets:
        rule = reg.fault("GET", t.request, faults.short_body(5), times=None)
        assert failure(t.call, m) == errno.EIO, t.name
        says(m, t.path, r"broke|bytes|sent")
        assert rule.hits <= 3 * ATTEMPTS, (t.name, rule.hits)
    world.recovers()


def test_lengths_that_lie_and_answers_without_length_are_handled(world):
    reg, m = world(targets=("manifest", "config", "layer", "tree", "blob", "tags"))
    for t in world.targets:
        reg.fault("GET", t.request, faults.chunked(), times=None)
        t.right(m)
    reg2, m2 = world.reg, world.again()
    other = [Target(n) for n in ("config", "blob")]
    for t in other:
        t.repo += "-lie"
        t.image = fresh_image("lie")
        t.layers, t.config = [la.digest for la in t.image.layers], t.image.document["config"]["digest"]
        t.add(reg2)
        reg2.fault("GET", t.request, faults.claim_length(10), times=None)
        reg2.fault("GET", t.request, faults.claim_length(10 << 20), times=None)
        assert failure(t.call, m2) == errno.EIO
    reg2.clear_faults()
    refresh(m2)
    for t in other:
        eventually(lambda t=t: t.right(m2), 5)


# ---- documents that make no sense

GARBAGE = {
    "JSON that ends early": b'{"schemaVersion": 2, "tags": ["1.0", "2.0"',
    "no JSON": b"tags: 1.0 2.0\n",
    "HTML": b"<html><body>Welcome to nginx!</body></html>",
    "an array": b'["1.0"]',
    "no list": b'{"name": "x"}',
    "a list that is none": b'{"name": "x", "tags": "1.0", "repositories": "a"}',
    "an empty body": b"",
    "duplicate keys": b'{"name": "x", "tags": ["1.0"], "tags": [], "repositories": ["a"], "repositories": []}',
    "deep nesting": b'{"tags":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "invalid UTF-8": b'{"name": "x", "tags": ["1.0", "\xff\xfe"], "repositories": ["\xff"]}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_listing_that_makes_no_sense_is_eio_and_never_short(world, name):
    reg, m = world(targets=("tags",))
    reg.fault("GET", "tags/list|_catalog", faults.replace_body(GARBAGE[name]), times=None)
    assert failure(os.listdir, m.path / "t-tags") == errno.EIO
    says(m, "t-tags", r"makes no sense|no list|JSON")
    assert failure(os.listdir, m.path) == errno.EIO
    reg.clear_faults()
    refresh(m)
    assert os.listdir(m.path) == ["t-tags"]
    world.recovers()


@pytest.mark.parametrize("what", ["tags", "catalog"])
@pytest.mark.parametrize("how", ["503", "reset", "html", "cut", "garbage", "loop", "other host", "403"])
def test_paging_that_is_cut_never_gives_a_short_list(fakereg, mount, what, how):
    """rsync --delete over a short list would delete the backup."""
    image = fresh_image("pages")
    if what == "tags":
        fakereg.add("app", image)
        fakereg.add_tags("app", image.digest, [f"t{i:03}" for i in range(250)])
    else:
        fakereg.add_repos(image, [f"r{i:03}" for i in range(250)])
    fakereg.page_max = 100
    m = mount(fakereg.url)
    with Listener("elsewhere") as elsewhere:
        where = r"tags/list\?.*last=t199" if what == "tags" else r"_catalog\?.*last=r199"
        action = {"503": faults.server_error(503), "reset": faults.reset(), "html": faults.status(200, html="<p>hi</p>"),
                  "cut": faults.short_body(30), "garbage": faults.replace_body(b'{"tags": ["a"'),
                  "loop": faults.set_header("Link", f'<{"/v2/app/tags/list" if what == "tags" else "/v2/_catalog"}?n=100&last='
                                            f'{"t199" if what == "tags" else "r199"}>; rel="next"'),
                  "other host": faults.set_header("Link", f'<{elsewhere.url.replace("127.0.0.1", "localhost")}/v2/x?last=z>; rel="next"'),
                  "403": faults.error(403, "DENIED")}[how]
        fakereg.fault("GET", where, action, times=None)
        where = m.path / "app" if what == "tags" else m.path
        got = failure(os.listdir, where)
        assert got == (errno.EACCES if how == "403" else errno.EIO)
        p = subprocess.run(["ls", "-f", where], capture_output=True, text=True)
        assert p.returncode != 0 and not re.search(r"^[tr]\d", p.stdout, re.M), p.stdout[:200]
        says(m, "app" if what == "tags" else "", r"page \d|HTTP (503|403)|circle|another host|makes no sense", repo="")
        assert elsewhere.count() == 0
    fakereg.clear_faults()
    refresh(m)
    assert len(os.listdir(where)) == 250


def test_rsync_delete_over_a_cut_list_deletes_nothing(fakereg, mount, tools, tmp_path):
    image = fresh_image("rsync")
    fakereg.add("app", image)
    fakereg.add_tags("app", image.digest, [f"t{i:03}" for i in range(25)])
    fakereg.page_max = 10
    m = mount(fakereg.url)
    backup = tmp_path / "backup"
    sync = [tools("rsync"), "-rd", "--delete", "--include=*/", "--exclude=*", "--no-recursive", f"{m.path}/app/", f"{backup}/"]
    subprocess.run(sync, check=True, capture_output=True)
    assert len(os.listdir(backup)) == 25
    fakereg.fault("GET", "tags/list.*last=", faults.server_error(), times=None)
    refresh(m)
    p = subprocess.run(sync, capture_output=True, text=True)     # the whole old list is served
    assert p.returncode == 0 and len(os.listdir(backup)) == 25, p
    again = mount(fakereg.url)                           # there is no old list
    p = subprocess.run([a.replace(str(m.path), str(again.path)) for a in sync], capture_output=True, text=True)
    assert p.returncode != 0 and len(os.listdir(backup)) == 25, p


def test_null_tags_and_an_empty_repository_are_an_empty_directory(fakereg, mount):
    fakereg.null_tags = True
    fakereg.repo("empty")
    fakereg.add("app", fresh_image("null"), "1.0")
    m = mount(fakereg.url)
    assert os.listdir(m.path / "empty") == []
    assert os.listdir(m.path / "app") == ["1.0"]


def test_a_missing_digest_header_head_that_is_not_supported_and_no_etag_cost_a_get_and_nothing_else(world):
    for switch in ("digest_header", "head_manifests", "etags"):
        reg, m = world(targets=("tag", "manifest", "layer"))
        setattr(reg, switch, False)
        for t in world.targets:
            t.right(m)
        assert errors_of(m) == ""
        m.umount()
        for f in (m.dir / "cache").rglob("*"):
            if f.is_file():
                f.unlink()


MANIFESTS = {
    "garbage": (b"{", None, EIO),
    "null": (b"null", None, EIO),
    "a number": (b"2", None, EIO),
    "duplicate keys": (b'{"schemaVersion":2,"config":{},"config":{},"layers":[]}', None, EIO),
    "layers that are none": (b'{"schemaVersion":2,"mediaType":"%s","config":7,"layers":"x"}' % MANIFEST.encode(), None, EIO),
    "a digest that escapes": (b'{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"a/b","digest":"sha256:../../x","size":2},'
                              b'"layers":[]}' % MANIFEST.encode(), None, EIO),
    "a negative size": (b'{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"a/b","digest":"sha256:%s","size":-2},'
                        b'"layers":[]}' % (MANIFEST.encode(), b"a" * 64), None, EIO),
    "schema 1": (b'{"schemaVersion":1,"name":"x","tag":"1.0","fsLayers":[],"history":[]}',
                 "application/vnd.docker.distribution.manifest.v1+prettyjws", EIO | {errno.EOPNOTSUPP}),
    "an unknown type": (b'{"hello":"world"}', "application/vnd.example+json", EIO | {errno.EOPNOTSUPP}),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_makes_no_sense_is_an_error_with_a_sentence(fakereg, mount, name):
    data, media_type, expected = MANIFESTS[name]
    fakereg.add_manifest("app", data, media_type or MANIFEST, tag="bad")
    fakereg.add("app", fresh_image("good"), "good")
    m = mount(fakereg.url)
    assert sorted(os.listdir(m.path / "app")) == ["bad", "good"]
    got = failure((m.path / "app/bad/manifest.json").read_bytes)
    assert got in expected, errno.errorcode[got]
    says(m, "app/bad", r"(?i)manifest|JSON|media type|digest|schema")
    assert (m.path / "app/good/rootfs/etc/motd").read_text() == "motd of good\n"


def test_a_content_type_that_contradicts_the_manifest_does_no_harm(fakereg, mount):
    """The document decides; a registry's header is often octet-stream or missing."""
    for i, value in enumerate(("application/octet-stream", "text/plain; charset=utf-8", "application/json", INDEX)):
        image = fresh_image(f"type{i}")
        fakereg.add(f"app{i}", image, "1.0")
        fakereg.fault("*", f"app{i}/manifests/", faults.set_header("Content-Type", value), times=None)
    m = mount(fakereg.url)
    for i in range(3):
        assert (m.path / f"app{i}/1.0/rootfs/etc/motd").read_text() == f"motd of type{i}\n"
    try:                                                 # says it is an index, is an image: either is sound, confusion is not
        assert (m.path / "app3/1.0/rootfs/etc/motd").read_text() == "motd of type3\n"
    except OSError as e:
        assert e.errno == errno.EIO
        says(m, "app3/1.0", r"(?i)the registry calls it .*but it calls itself|type")


def test_a_manifest_of_100_mb_is_refused_without_being_read(world):
    reg, m = world(targets=("tag", "manifest"))
    tag, manifest = world.targets
    reg.fault("GET", manifest.request, faults.huge(100 << 20), times=None)
    reg.head_manifests = False
    reg.fault("GET", tag.request, faults.huge(100 << 20), times=None)
    before = m.rss()
    for t in world.targets:
        assert failure(t.call, m) == errno.EFBIG, t.name
        says(m, t.path, r"more than \d+ bytes|larger than \d+ bytes")
    assert m.rss() - before < 64 << 20
    assert reg.bytes_sent() < 40 << 20
    reg.head_manifests = True
    world.recovers()


def test_listings_and_tokens_of_100_mb_are_refused_without_being_read(world):
    reg, m = world(targets=("tags", "referrers"))
    before = m.rss()
    for t in world.targets:
        reg.fault("GET", t.request, faults.huge(100 << 20), times=None)
        assert failure(t.call, m) in (errno.EFBIG, errno.EIO), t.name
        says(m, t.path, r"more than \d+ bytes|larger than|makes no sense")
    assert m.rss() - before < (512 << 20 if SANITIZED else 192 << 20)
    world.recovers()


def test_an_index_that_nests_without_end_stops(fakereg, mount):
    """A registry whose indexes claim to hold themselves, and a tower of thirty: looking ends, with a sentence."""
    tower = fresh_image("tower")
    for _ in range(30):
        tower = Index([(tower, {"platform": {"os": "linux", "architecture": "amd64"}})])
    fakereg.add("tower", tower, "1.0")
    m = mount(fakereg.url)
    # a digest that contains itself cannot be made; a registry that claims it can
    fakereg.add("self", fresh_image("self"), "1.0")
    fakereg.fault("*", "/self/manifests/", faults.index_loop(), times=None)
    assert failure((m.path / "self/1.0/manifest.json").read_bytes) == errno.EIO
    says(m, "self/1.0", r"(?i)wrong bytes|digest")
    got = failure(os.listdir, m.path / "tower/1.0/rootfs")
    assert got in (errno.ELOOP, errno.ENOENT, errno.EIO), errno.errorcode[got]
    says(m, "tower/1.0", r"nests? too deep|contains itself")
    p = subprocess.run(["timeout", "60", "find", m.path / "tower/1.0", "-maxdepth", "100"], capture_output=True, text=True)
    assert p.returncode != 124 and len(p.stdout.splitlines()) < 2000


def test_referrers_that_go_round_in_a_circle_end(fakereg, mount):
    image = fresh_image("subject")
    fakereg.add("app", image, "1.0")
    sig = images.artifact({"sig": b"s"}, "application/x-sig", subject=image)
    fakereg.add("app", sig)
    entry = sig.descriptor()
    fakereg.set_referrers("app", sig.digest, [{**image.descriptor(), "artifactType": "application/x-circle"}, entry])
    fakereg.set_referrers("app", image.digest, [{**image.descriptor(), "artifactType": "application/x-self"},
                                                {"mediaType": MANIFEST, "digest": "sha256:" + "e" * 64, "size": 9,
                                                 "artifactType": "application/x-dangling"}])
    m = mount(fakereg.url)
    p = subprocess.run(["timeout", "60", "find", m.path / "app/1.0/referrers"], capture_output=True, text=True)
    assert p.returncode != 124 and 0 < len(p.stdout.splitlines()) < 500, len(p.stdout.splitlines())


# ---- redirects

@pytest.fixture
def redirected(world):
    reg, m = world(auth="bearer", targets=("blob", "tree", "config"))
    return reg, m


def nothing_secret(server):
    """No credential ever came here."""
    for r in server.requests():
        text = json.dumps([r.headers, r.target])
        assert "authorization" not in r.headers and "cookie" not in r.headers, r
        assert "tok-" not in text and "secret" not in text and "c2VjcmV0" not in text, r


def test_blobs_behind_a_redirect_to_another_host_come_without_authorization(make_fakereg, mount):
    reg = make_fakereg(auth="bearer")
    t = [Target(n) for n in ("blob", "tree", "config", "layer")]
    for x in t:
        x.add(reg)
    cdn = reg.redirect_blobs()
    m = mount(reg.url, auth={reg.host: ("user", "secret")})
    for x in t:
        x.right(m)
    assert cdn.count("blob_get") >= 4
    nothing_secret(cdn)
    assert all("authorization" in r.headers for r in reg.requests("/blobs/"))


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_followed(make_fakereg, mount, code):
    reg = make_fakereg()
    reg.redirect_status = code
    t = Target("blob")
    t.add(reg)
    reg.redirect_blobs()
    m = mount(reg.url)
    t.right(m)


def test_a_signed_url_that_has_expired_is_asked_for_again(make_fakereg, mount):
    reg = make_fakereg()
    t = Target("blob"), Target("tree")
    for x in t:
        x.add(reg)
    cdn = reg.redirect_blobs()
    m = mount(reg.url)
    cdn.fault("GET", t[0].layers[1], faults.status(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"))
    t[0].right(m)                                        # expired before the first byte
    cdn.fault("GET", t[1].layers[1], faults.short_body(100_000))
    cdn.fault("GET", t[1].layers[1], faults.status(403))
    t[1].right(m)                                        # expired in the middle: a new URL, and the rest by Range
    assert errors_of(m) == ""
    assert len({r.query for r in cdn.requests(t[1].layers[1])}) >= 2


def test_a_redirect_target_that_always_refuses_ends_bounded_and_is_not_the_registrys_403(make_fakereg, mount):
    reg = make_fakereg()
    t = Target("blob")
    t.add(reg)
    cdn = reg.redirect_blobs()
    rule = cdn.fault("*", ".", faults.status(403, b"<Error/>"), times=None)
    m = mount(reg.url)
    assert failure(t.call, m) in (errno.EACCES, errno.EIO)
    says(m, t.path, r"HTTP 403")
    assert rule.hits <= 2 * ATTEMPTS


def test_a_redirect_from_https_to_http_is_refused(make_fakereg, mount, authority):
    reg = make_fakereg(auth="basic", authority=authority)
    t = Target("blob")
    t.add(reg)
    with BlobHost(reg.blobs) as plain:
        reg.fault("GET", t.request, faults.redirect(plain.url + "{path}"), times=None)
        m = mount(reg.url, auth={reg.host: ("user", "secret")}, cafile=authority.ca)
        assert failure(t.call, m) == errno.EACCES
        says(m, t.path, r"without TLS, which was refused")
        assert plain.count() == 0


@pytest.mark.parametrize("address", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "[::ffff:169.254.169.254]", "2852039166",
                                     "0xa9fea9fe", "169.254.43518"])
def test_no_redirect_leads_to_link_local_addresses(make_fakereg, mount, address):
    reg = make_fakereg()
    t = Target("blob")
    t.add(reg)
    reg.fault("GET", t.request, faults.redirect(f"http://{address}/latest/meta-data/"), times=None)
    m = mount(reg.url, options="timeout=3")
    start = time.monotonic()
    assert failure(t.call, m) in (errno.EACCES, errno.EIO)
    assert time.monotonic() - start < 2.5, "it was tried"
    says(m, t.path, r"refused")


def test_a_redirect_between_hosts_carries_headers_of_neither(make_fakereg, mount):
    """registry -> other registry -> cdn: the credentials of one are for none of the others."""
    a, b = make_fakereg(auth="basic"), make_fakereg(auth="basic")
    b.users = {"other": "different"}
    t = Target("blob")
    t.add(a)
    with BlobHost(a.blobs) as cdn:
        a.fault("GET", t.request, faults.redirect(b.url + "/v2/t-blob/blobs/" + t.layers[1]), times=None)
        b.fault("GET", "t-blob", lambda request, proper: Response(307, {"Location": cdn.location(t.layers[1])}), times=None)
        m = mount(a.url, auth={a.host: ("user", "secret"), b.host: ("other", "different")})
        t.right(m)
        assert cdn.count("blob_get") >= 1
        nothing_secret(cdn)
        nothing_secret(b)


def test_a_401_of_a_redirect_target_gets_no_credentials(make_fakereg, mount):
    reg = make_fakereg(auth="basic")
    t = Target("blob")
    t.add(reg)
    with Listener("thief") as thief:
        thief.fault("*", ".", faults.unauthorized('Basic realm="give"'), times=None)
        reg.fault("GET", t.request, faults.redirect(thief.url + "{path}"), times=None)
        m = mount(reg.url, auth={reg.host: ("user", "secret"), thief.host: ("x", "thiefsecret")})
        assert failure(t.call, m) in (errno.EACCES, errno.EIO)
        assert thief.count() >= 1
        nothing_secret(thief)


def test_a_token_realm_of_another_scheme_or_place_is_refused(make_fakereg, mount, authority):
    """A registry says where tokens are; it must not choose the metadata service, nor plain http from https."""
    with Listener("thief") as thief:
        for realm in (thief.url + "/token", "http://169.254.169.254/token", "ftp://x/token"):
            reg = make_fakereg(auth="bearer", authority=authority)
            reg.token_realm = realm
            reg.add("app", fresh_image("realm"), "1.0")
            m = None
            with pytest.raises(AssertionError) as e:
                m = mount(reg.url, auth={reg.host: ("user", "secret")}, cafile=authority.ca)
            assert m is None and re.search(r"refused|scheme|token service", str(e.value)), e.value
        assert thief.count() == 0
