"""The command line: what mount, umount and status promise, and one sentence that says what to do when they cannot.

Nothing here may leave a mount, a process or a changed machine behind: what needs the machine's own directories (/sbin,
/etc) runs in a mount namespace of its own (`apart`).
"""
import ctypes
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from lib import faults
from lib.images import Image, Layer, file, write_layout
from lib.rfs import BUGS, ROOT, Mount, _adopt_orphans, _processes, is_mounted, program
from lib.servers import DockerRegistry28, free_port

DONE, FAILED, USAGE, NOT_MOUNTED, DEAD, BUSY = range(6)          # exit statuses, as the manual has them
NOBODY, STRANGER = 65534, 65533                                  # ordinary users
MAN = ROOT / "contrib" / "man" / "registryfs.1"


def image(text="hello\n"):
    return Image([Layer([file("etc/motd", text)])])


@pytest.fixture
def place():
    """place(source, options=...) -> a Mount that is not started, with its mount point made; cleaned up and checked."""
    _adopt_orphans()
    made = []

    def make(*args, **kw):
        m = Mount(*args, **kw)
        made.append(m)
        m.path.mkdir(parents=True, exist_ok=True)
        return m
    yield make
    problems = []
    for m in reversed(made):
        try:
            problems += m.finish()
        finally:
            m._remove()
    assert not problems, "\n".join(problems)


@pytest.fixture
def layouts(tmp_path):
    """dir:PATH with one repository `app`, tagged 1.0."""
    write_layout(tmp_path / "layouts" / "app", {"1.0": image()})
    return f"dir:{tmp_path}/layouts"


def eventually(check, seconds=10):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"not so within {seconds} s: {check}"
        time.sleep(0.02)


def sentence(p, words, status=FAILED):
    """The command has ended with that status and exactly one sentence, in which the words are (a regular expression)."""
    assert p.returncode == status, f"status {p.returncode}, not {status}: {p.stdout}{p.stderr}"
    lines = p.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("registryfs: ") and not lines[0].endswith("."), p.stderr
    assert p.stdout == "", p.stdout
    assert re.search(words, lines[0]), f"{words!r} is not in: {lines[0]}"
    return lines[0]


def refused(m, words, status=FAILED, timeout=31):
    """Mounting fails with one sentence; no mount and no process is left."""
    before = table(m.path)
    p = m.run(*m.arguments(), timeout=timeout)
    text = sentence(p, words, status)
    assert table(m.path) == before, f"{m.path} is mounted"
    eventually(lambda: not _processes(m.token), 5)
    reports = [r.read_text(errors="replace") for r in m.dir.glob("sanitizer*")]
    assert not any(BUGS.search(r) for r in reports), reports
    return text


def table(path):
    """The mounts on a path, by type."""
    found = []
    for line in open("/proc/self/mountinfo"):
        left, right = line.split(" - ")
        if left.split()[4] == str(path):
            found.append(right.split()[0])
    return found


def mounted(m):
    """Mounts (background); m.pid is the daemon, found by asking it."""
    p = m.run(*m.arguments())
    assert (p.returncode, p.stdout, p.stderr) == (0, "", ""), p.stdout + p.stderr
    m.status, m.pid = None, info(m)["pid"]
    return m


def info(m):
    return json.loads((m.path / ".control" / "info.json").read_text())


def dead(m):
    """kill -9, and what is left stays."""
    os.kill(m.pid, signal.SIGKILL)
    m.wait(10)
    m.status = None


def error_of(call, *args):
    with pytest.raises(OSError) as e:
        call(*args)
    return e.value.errno


def config(m):
    """.control/config as {option: (value, where from)}."""
    lines = (m.path / ".control" / "config").read_text().splitlines()
    return {k: (v, w) for k, v, w in (re.fullmatch(r"(\w+)=(.*?)  \((.*)\)", ln).groups() for ln in lines)}


def raw_mount(path, kind, user=0):
    """A FUSE mount of some kind that nobody serves; returns the descriptor that keeps it from being dead."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id={user},group_id=0".encode()
    assert libc.mount(b"standin", str(path).encode(), kind.encode(), 6, options) == 0, os.strerror(ctypes.get_errno())
    return fd


def unmount(path):
    subprocess.run(["umount", "-i", "-l", str(path)], check=True, capture_output=True)


def apart(script, env, *args, timeout=60):
    """Runs a bash script in a mount namespace of its own: whatever it mounts is gone with it."""
    return subprocess.run(["unshare", "-m", "--propagation", "private", "bash", "-euc", script, "bash", *map(str, args)],
                          env=env, capture_output=True, text=True, timeout=timeout)


# ---- mount: when it says yes


def test_mount_returns_0_only_when_the_mount_answers_and_the_registry_was_reached(place, fakereg):
    fakereg.add("app", image(), "1.0")
    m = place(fakereg.url)
    p = m.run(*m.arguments())
    asked = fakereg.count()
    names = os.listdir(m.path)              # at once, no waiting
    assert (p.returncode, p.stdout, p.stderr) == (0, "", "")
    assert asked >= 1 and fakereg.requests()[0].path == "/v2/"
    assert names == ["app"]
    m.pid = info(m)["pid"]


def test_mount_waits_for_the_registry_before_it_returns(place, fakereg):
    gate = threading.Event()
    fakereg.fault("GET", "^/v2/", faults.stall(gate))
    m = place(fakereg.url)
    p = subprocess.Popen([program(), *m.arguments()], env=m.env, stdin=subprocess.DEVNULL)
    time.sleep(1)
    early = p.poll(), is_mounted(m.path)
    gate.set()
    assert p.wait(20) == 0 and early == (None, False)
    assert is_mounted(m.path)
    m.pid = info(m)["pid"]


def test_mount_with_the_right_password_of_an_htpasswd_registry(place):
    with DockerRegistry28(auth="htpasswd") as reg:
        m = mounted(place(reg.url, auth={reg.host: (reg.user, reg.password)}))
        assert os.listdir(m.path) == []
        assert reg.user in info(m)["registries"][0]["credentials"]
        m.umount()


def test_mounting_on_a_directory_that_is_not_empty_works_and_hides_its_files(place, layouts):
    m = place(layouts)
    (m.path / "mine").write_text("still here")
    mounted(m)
    assert os.listdir(m.path) == ["app"]
    m.umount()
    assert (m.path / "mine").read_text() == "still here"


def test_the_word_mount_may_be_written_or_left_out(place, layouts):
    m = place(layouts)
    m.run("mount", *m.arguments(), check=True)
    m.pid = info(m)["pid"]
    assert os.listdir(m.path) == ["app"]


# ---- mount: when it says no


def test_a_wrong_password_is_one_sentence_that_names_the_credentials(place):
    with DockerRegistry28(auth="htpasswd") as reg:
        m = place(reg.url, auth={reg.host: (reg.user, "wrong")})
        text = refused(m, "refused the credentials of user user from .*config.json.*; log in again")
        assert reg.host in text and "wrong" not in text


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_missing_credentials_are_one_sentence_that_says_how_to_log_in(place, make_fakereg, auth):
    reg = make_fakereg(auth=auth)
    assert refused(place(reg.url), "wants credentials").count(f"podman login {reg.host}") == 1


def test_a_wrong_password_at_a_token_service_is_one_sentence(place, make_fakereg):
    reg = make_fakereg(auth="bearer")
    refused(place(reg.url, auth={reg.host: ("user", "wrong")}), "refused the credentials of user user .*log in again")


def test_connection_refused_is_one_sentence(place):
    refused(place(f"http://127.0.0.1:{free_port()}"), "cannot be reached: Connection refused; .*running")


def test_an_unreachable_network_is_one_sentence(place):
    m = place("http://198.51.100.1")
    p = subprocess.run(["unshare", "-n", program(), *m.arguments()], env=m.env, capture_output=True, text=True, timeout=31)
    sentence(p, "198.51.100.1 cannot be reached: Network is unreachable; .*address")
    assert not is_mounted(m.path) and not _processes(m.token)


def test_a_host_that_does_not_answer_connections_is_one_sentence(place):
    with socket.socket() as full:            # a full backlog: the kernel drops what comes
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(full.getsockname())
            fillers.append(s)
        m = place("http://127.0.0.1:%d" % full.getsockname()[1], "timeout=2")
        start = time.monotonic()
        refused(m, "in time; .*address|sent nothing for 2 seconds; .*address")
        assert time.monotonic() - start < 15
        for s in fillers:
            s.close()


def test_an_unknown_host_name_is_one_sentence(place):
    m = place("no-such-host.invalid")
    p = subprocess.run(["unshare", "-n", program(), *m.arguments()], env=m.env, capture_output=True, text=True, timeout=31)
    sentence(p, "DNS has no address for no-such-host.invalid; .*address")


def test_a_certificate_of_an_unknown_authority_is_one_sentence_that_says_where_it_belongs(place, make_fakereg, authority):
    reg = make_fakereg(authority=authority)
    refused(place(reg.url), rf"no trusted TLS connection to {reg.host} .*certs.d/{reg.host}/ca.crt")
    assert os.listdir(mounted(place(reg.url, cafile=authority.ca)).path) == []
    assert os.listdir(mounted(place(reg.url, "tls_verify=no")).path) == []


@pytest.mark.parametrize("scheme", ["", "https://"])
def test_https_spoken_to_a_plain_port_is_one_sentence_that_suggests_http(place, fakereg, scheme):
    refused(place(scheme + fakereg.host), f"does not speak TLS; write http://{fakereg.host}")


def test_http_spoken_to_a_tls_port_is_one_sentence_that_suggests_https(place, make_fakereg, authority):
    reg = make_fakereg(authority=authority)
    refused(place(f"http://{reg.host}"), "without http://")


@pytest.mark.parametrize("status", [200, 404, 502])
def test_a_web_server_that_is_no_registry_is_one_sentence(place, fakereg, status):
    fakereg.fault("*", ".", faults.html(status), times=None)
    refused(place(fakereg.url), {200: "web page, so it is not a registry; check the address",
                                 404: "not a registry's answer.*check the address", 502: "HTTP 502; try again"}[status])


def test_a_silent_registry_is_one_sentence_after_the_timeout(place, fakereg):
    fakereg.fault("*", ".", faults.stall(60), times=None)
    start = time.monotonic()
    refused(place(fakereg.url, "timeout=2"), "sent nothing for 2 seconds; ")
    assert 1.5 < time.monotonic() - start < 12


@pytest.mark.long
def test_a_silent_registry_is_one_sentence_within_30_seconds(place, fakereg):
    fakereg.fault("*", ".", faults.stall(60), times=None)
    start = time.monotonic()
    refused(place(fakereg.url), "did not answer within 25 seconds; ")
    assert time.monotonic() - start < 30


def test_a_mount_that_is_interrupted_while_it_starts_leaves_nothing(place, fakereg):
    fakereg.fault("*", ".", faults.stall(60), times=None)
    m = place(fakereg.url)
    p = subprocess.Popen([program(), *m.arguments()], env=m.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    eventually(lambda: fakereg.count() > 0)
    p.send_signal(signal.SIGINT)             # the parent alone: its child notices
    assert p.wait(10) != 0
    p.stderr.close()
    eventually(lambda: not _processes(m.token))
    assert not is_mounted(m.path)


def test_a_directory_that_is_not_there_is_one_sentence(place, tmp_path):
    refused(place(f"dir:{tmp_path}/nowhere"), f"the registry directory {tmp_path}/nowhere does not exist")


@pytest.mark.parametrize("options, words", [
    ("tag_tll=3", 'unknown option "tag_tll"; the nearest is tag_ttl'),
    ("cachesize=1G", "unknown option .*; the nearest is cache_size"),
    ("zzzzzz", "unknown option .*; `registryfs help mount` lists all"),
    ("tag_ttl=soon", 'tag_ttl: "soon" is not a time such as 30, 30s, 5m or 2h'),
    ("timeout=0", "timeout: 0 is outside 1 to 3600 seconds"),
    ("cache_size=huge", "is not a size such as"),
    ("transfers=1000", "outside 1 to 64"),
    ("timeout", "option timeout needs a value: timeout=TIME"),
    ("platform=arm64", "is not OS/ARCH"),
    ("log_level=loud", "is not error, warning, info or debug"),
    ("ro,rw", "both ro and rw are given; keep one"),
    ("allow_other,allow_root", "allow_other and allow_root are both given; keep one"),
    ("remount", "unmount it and mount it again"),
    ("auto_unmount", "empty directory"),
    ("registries=a.example/b", "is not a HOST"),
])
def test_a_bad_option_is_one_sentence_that_names_the_nearest_or_what_is_wanted(place, layouts, options, words):
    refused(place(layouts, options), words, USAGE)


@pytest.mark.parametrize("source, words", [
    ("ftp://example.com", "ftp:// is not a kind of registry .*write HOST"),
    ("ubuntu", "has neither a dot nor a port.*https://ubuntu"),
    ("ghcr.io/Upper", "not a repository prefix"),
    ("169.254.169.254", "never a registry"),
])
def test_a_bad_source_is_one_sentence(place, source, words):
    refused(place(source), words, USAGE)


def test_a_missing_or_superfluous_word_is_one_sentence(place):
    m = place()
    sentence(m.run("-o", "ro"), "MOUNTPOINT is missing", USAGE)
    sentence(m.run("ghcr.io"), "MOUNTPOINT is missing: registryfs ghcr.io MOUNTPOINT", USAGE)
    sentence(m.run("mount"), "MOUNTPOINT is missing", USAGE)
    sentence(m.run("ghcr.io", m.path, "more"), 'too many words .*"more"', USAGE)
    sentence(m.run("--nonsense", m.path), '"--nonsense" is not understood; see', USAGE)
    sentence(m.run("-q", m.path), '"-q" is not understood; see', USAGE)
    sentence(m.run("-o"), "-o needs a value", USAGE)


def test_a_mount_point_that_does_not_exist_is_one_sentence_that_says_mkdir(place, layouts):
    m = place(layouts)
    m.path.rmdir()
    refused(m, f"does not exist; make it first: mkdir -p {m.path}")
    assert not m.path.exists()


def test_a_mount_point_that_is_a_file_is_one_sentence(place, layouts):
    m = place(layouts)
    m.path.rmdir()
    m.path.write_text("mine")
    refused(m, "is not a directory; ")
    assert m.path.read_text() == "mine"


def test_a_mount_point_where_another_file_system_is_mounted_is_one_sentence(place, layouts):
    m = place(layouts)
    subprocess.run(["mount", "-t", "tmpfs", "other", str(m.path)], check=True)
    try:
        (m.path / "kept").write_text("kept")
        refused(m, f"{m.path} is already a mount point .other of type tmpfs.; choose another")
        assert (m.path / "kept").read_text() == "kept"
    finally:
        unmount(m.path)


def test_a_mount_point_where_a_living_registryfs_is_mounted_is_one_sentence(place, layouts):
    m = mounted(place(layouts))
    p = m.run(*m.arguments())
    sentence(p, f"is mounted on {m.path} already; `registryfs umount`")
    assert table(m.path) == ["fuse.registryfs"] and info(m)["pid"] == m.pid
    eventually(lambda: _processes(m.token) == [m.pid], 5)


def test_what_the_mount_needs_may_not_lie_inside_it(place, layouts):
    m = place(layouts)
    m.options.append(f"cache={m.path}/cache")
    refused(m, "lies inside the mount point")
    m = place()
    m.source = f"dir:{m.path}"
    refused(m, "lies inside the mount point")


def test_a_log_file_that_cannot_be_opened_is_one_sentence(place, layouts):
    m = place(layouts)
    m.logfile = m.dir / "nowhere" / "log"
    refused(m, "nowhere/log")


def test_a_cache_that_cannot_be_made_is_one_sentence_that_names_the_option(place, layouts):
    m = place(layouts)
    (m.dir / "file").write_text("")
    m.options.append(f"cache={m.dir}/file/cache")
    refused(m, "cannot make .*-o cache=")


# ---- kill -9, and what comes after


def test_kill_9_leaves_enotconn_and_never_an_empty_directory(place, layouts):
    m = mounted(place(layouts))
    dead(m)
    assert error_of(os.listdir, m.path) == errno.ENOTCONN
    assert error_of(os.stat, m.path / "app") == errno.ENOTCONN
    assert is_mounted(m.path)


def test_a_new_mount_replaces_its_own_stale_mount(place, layouts):
    m = mounted(place(layouts))
    dead(m)
    mounted(m)
    assert table(m.path) == ["fuse.registryfs"]
    assert (m.path / "app/1.0/rootfs/etc/motd").read_text() == "hello\n"


@pytest.mark.parametrize("kind, user, words", [
    ("fuse.other", 0, "already a mount point .standin of type fuse.other."),
    ("fuse.registryfs", 12345, "user 12345 has mounted standin on .*; choose another directory"),
])
def test_a_stale_mount_of_something_else_stays(place, layouts, kind, user, words):
    m = place(layouts)
    os.close(raw_mount(m.path, kind, user))
    try:
        refused(m, words)
        assert table(m.path) == [kind]
    finally:
        unmount(m.path)


def test_umount_clears_a_dead_mount_away(place, layouts):
    m = mounted(place(layouts))
    dead(m)
    p = m.run("umount", m.path)
    assert (p.returncode, p.stdout, p.stderr) == (DONE, "", "")
    assert not is_mounted(m.path) and os.listdir(m.path) == []


# ---- umount


def test_umount_waits_until_the_process_has_ended(place, layouts):
    m = mounted(place(layouts))
    m.run("umount", m.path, check=True)
    pid, status = os.waitpid(m.pid, os.WNOHANG)          # ours to bury: we are the subreaper
    assert pid == m.pid and os.waitstatus_to_exitcode(status) == 0
    assert not is_mounted(m.path) and os.listdir(m.path) == []
    m.pid = None


def test_umount_of_a_busy_mount_says_who_uses_it_and_l_detaches_it(place, layouts):
    m = mounted(place(layouts))
    user = subprocess.Popen(["sleep", "100"], cwd=m.path / "app")
    try:
        eventually(lambda: os.readlink(f"/proc/{user.pid}/exe").endswith(("sleep", "coreutils")))
        sentence(m.run("umount", m.path), rf"in use by {user.pid} \(sleep\); .*umount -l", BUSY)
        assert is_mounted(m.path)
        p = m.run("umount", "-l", m.path)
        assert (p.returncode, p.stdout, p.stderr) == (DONE, "", "")
        assert not is_mounted(m.path)
        assert m.wait(0.3) is None                       # the last user is still there
    finally:
        user.kill()
        user.wait()
    assert m.wait(15) == 0                               # and now it has left


def test_umount_names_an_open_file_as_a_use(place, layouts):
    m = mounted(place(layouts))
    with open(m.path / "app/1.0/digest"):
        sentence(m.run("umount", m.path), rf"in use by {os.getpid()} \(.+\)", BUSY)
    m.umount()


def test_umount_of_a_foreign_path_refuses(place, tmp_path):
    m = place()
    sentence(m.run("umount", m.path), f"nothing is mounted on {m.path}; `registryfs status`", NOT_MOUNTED)
    sentence(m.run("umount", "/proc"), "/proc is not a mount of registryfs but of .* type proc; use umount", NOT_MOUNTED)
    sentence(m.run("umount", tmp_path / "nowhere"), "nowhere", NOT_MOUNTED)
    sentence(m.run("umount"), "usage: registryfs umount", USAGE)
    sentence(m.run("umount", "-x", m.path), "the option -l and no other", USAGE)
    assert os.path.exists("/proc/self")


def test_umount_understands_relative_paths_links_and_slashes(place, layouts):
    for spell in (lambda m: "mnt", lambda m: "./mnt/", lambda m: m.dir / "link" / "mnt", lambda m: f"{m.path}/."):
        m = mounted(place(layouts))
        (m.dir / "link").symlink_to(m.dir)
        p = subprocess.run([program(), "umount", str(spell(m))], env=m.env, cwd=m.dir, capture_output=True, text=True)
        assert (p.returncode, p.stderr) == (0, ""), p.stderr
        assert not is_mounted(m.path)


def test_umount_works_from_inside_the_mount(place, layouts):
    m = mounted(place(layouts))
    p = subprocess.run([program(), "umount", str(m.path)], env=m.env, cwd=m.path, capture_output=True, text=True)
    assert (p.returncode, p.stderr) == (0, ""), p.stderr


def test_fusermount_and_umount_8_end_the_process_too(place, layouts):
    m = mounted(place(layouts))
    m.fusermount()
    assert m.status == 0
    m = mounted(place(layouts))
    subprocess.run(["umount", "-i", str(m.path)], check=True)
    assert m.wait(15) == 0


# ---- status


def test_status_says_where_a_mount_comes_from_and_how_it_is(place, fakereg):
    fakereg.add("app", image(), "1.0")
    m = mounted(place(fakereg.url))
    (m.path / "app/1.0/rootfs/etc/motd").read_text()
    p = m.run("status", m.path)
    assert p.returncode == DONE and p.stderr == ""
    lines = p.stdout.splitlines()
    assert lines[0] == str(m.path)
    assert re.fullmatch(rf"  source    {fakereg.host}", lines[1])
    assert re.fullmatch(rf"  process   {m.pid}, up \d+ s, version \S+", lines[2])
    assert re.fullmatch(rf"  requests  {m.stats()['http_requests']} to registries, 0 failed, .* received", lines[3])
    assert re.fullmatch(r"  cache     [\d.]+ \w+", lines[4]) and re.fullmatch(r"  waiting   \d+ operations", lines[5])
    assert len(lines) == 6
    everything = m.run("status")
    assert p.stdout.splitlines()[:2] == [ln for ln in everything.stdout.splitlines() if ln in lines[:2]][:2]


def test_status_of_what_is_no_mount_ends_with_3(place, tmp_path):
    m = place()
    sentence(m.run("status", m.path), "is not a mount of registryfs", NOT_MOUNTED)
    sentence(m.run("status", tmp_path / "nowhere"), "nowhere", NOT_MOUNTED)
    sentence(m.run("status", "a", "b"), "usage: registryfs status", USAGE)
    sentence(m.run("status", "--wrong"), "usage: registryfs status", USAGE)


def test_status_of_nothing_says_so(place):
    m = place()
    p = apart(r"""awk '$3 == "fuse.registryfs" { print $2 }' /proc/mounts | while read -r p; do umount -i -l "$p"; done
                  exec "$1" status""", m.env, program())
    assert (p.returncode, p.stdout, p.stderr) == (DONE, "nothing is mounted\n", "")


def test_status_of_a_dead_mount_ends_with_4_and_says_what_to_do(place, layouts):
    m = mounted(place(layouts))
    dead(m)
    p = m.run("status", m.path)
    assert p.returncode == DEAD and p.stderr == ""
    assert "DEAD" in p.stdout and "registryfs umount" in p.stdout
    assert m.run("status").returncode == DEAD


def test_a_stuck_process_stops_neither_status_nor_mount_nor_umount_l(place, layouts):
    m = mounted(place(layouts))
    os.kill(m.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        status = subprocess.Popen([program(), "status", str(m.path)], env=m.env, stdout=subprocess.PIPE, text=True)
        again = m.run(*m.arguments(), timeout=20)
        assert "STUCK: no answer within" in status.communicate(timeout=20)[0] and status.returncode == DEAD
        sentence(again, "its process does not answer; see `registryfs status`")
        assert time.monotonic() - start < 15
        p = m.run("umount", "-l", m.path, timeout=30)
        assert p.returncode == DONE, p.stderr
        assert not is_mounted(m.path)
    finally:
        os.kill(m.pid, signal.SIGCONT)
    assert m.wait(15) == 0


# ---- foreground, signals, log, systemd


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("front", [True, False], ids=["-f", "background"])
def test_sigint_and_sigterm_unmount_and_end_with_0(place, layouts, sig, front):
    m = place(layouts, foreground=front)
    m.start()
    assert os.listdir(m.path) == ["app"]
    os.kill(m.pid, sig)
    assert m.wait(15) == 0
    assert not is_mounted(m.path)


def test_f_stays_in_front_and_logs_to_the_terminal(place, layouts):
    m = place(layouts)
    p = subprocess.Popen([program(), "-f", layouts, str(m.path)], env=m.env, stderr=subprocess.PIPE, text=True)
    eventually(lambda: is_mounted(m.path))
    os.listdir(m.path)
    assert p.poll() is None
    m.run("umount", m.path, check=True)
    assert f"{layouts} is mounted on {m.path}" in p.communicate(timeout=15)[1] and p.returncode == 0


def test_sigterm_ends_a_mount_that_waits_for_a_silent_registry(place, fakereg):
    fakereg.add("app", image(), "1.0")
    m = mounted(place(fakereg.url))
    fakereg.fault("*", "app/manifests", faults.stall(60), times=None)
    user = subprocess.Popen(["cat", str(m.path / "app/1.0/digest")], stderr=subprocess.DEVNULL)
    eventually(lambda: fakereg.requests("app/manifests"))
    os.kill(m.pid, signal.SIGTERM)
    assert m.wait(15) == 0 and not is_mounted(m.path)
    assert user.wait(10) != 0


def test_sighup_asks_for_tags_again_and_opens_the_log_again(place, fakereg):
    fakereg.add("app", image("one\n"), "1.0")
    m = mounted(place(fakereg.url, "tag_ttl=1h"))
    motd = m.path / "app/1.0/rootfs/etc/motd"
    assert motd.read_text() == "one\n" and os.listdir(m.path / "app") == ["1.0"]
    fakereg.add("app", image("two\n"), "1.0", "1.1")
    assert motd.read_text() == "one\n" and os.listdir(m.path / "app") == ["1.0"]
    m.logfile.rename(m.dir / "log.1")
    os.kill(m.pid, signal.SIGHUP)
    eventually(lambda: motd.read_text() == "two\n" and sorted(os.listdir(m.path / "app")) == ["1.0", "1.1"])
    eventually(lambda: "asked for again" in m.log)


def test_sigusr1_changes_the_log_level(place, layouts):
    m = mounted(place(layouts))
    os.kill(m.pid, signal.SIGUSR1)
    eventually(lambda: "log level is now debug" in m.log)


def test_log_writes_to_the_file_and_not_for_others_to_read(place, layouts):
    m = mounted(place(layouts))
    assert f"{layouts} is mounted on {m.path}" in m.log
    assert m.logfile.stat().st_mode & 0o077 == 0
    m.umount()
    assert f"{m.path} is unmounted" in m.log


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_systemd_is_told_ready_when_the_mount_answers_and_stopping_when_it_ends(place, fakereg, abstract):
    fakereg.add("app", image(), "1.0")
    gate = threading.Event()
    fakereg.fault("GET", "^/v2/", faults.stall(gate))
    m = place(fakereg.url, foreground=True)
    name = f"@registryfs-test-{m.token}" if abstract else str(m.dir / "notify")
    m.env["NOTIFY_SOCKET"] = name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind("\0" + name[1:] if abstract else name)
        s.settimeout(1)
        starter = threading.Thread(target=m.start)
        starter.start()
        with pytest.raises(TimeoutError):
            s.recv(1000)                     # the registry has not answered yet
        gate.set()
        s.settimeout(15)
        words = s.recv(1000).decode().splitlines()
        names = os.listdir(m.path)           # at once
        starter.join()
        assert words == ["READY=1", f"MAINPID={m.pid}"] and names == ["app"]
        os.kill(m.pid, signal.SIGTERM)
        assert "STOPPING=1" in s.recv(1000).decode().splitlines()
        assert m.wait(15) == 0


def test_systemd_is_not_told_ready_when_the_mount_fails(place, fakereg):
    fakereg.fault("*", ".", faults.html(404), times=None)
    m = place(fakereg.url)
    m.env["NOTIFY_SOCKET"] = str(m.dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(m.dir / "notify"))
        refused(m, "not a registry")
        s.setblocking(False)
        words = b""
        try:
            while True:
                words += s.recv(1000)
        except BlockingIOError:
            pass
        assert b"READY" not in words


# ---- options


def test_the_command_line_beats_the_environment_beats_the_file_and_config_shows_it(place, layouts):
    m = place(layouts, "tag_ttl=31")
    m.env.update(REGISTRYFS_TAG_TTL="21", REGISTRYFS_TIMEOUT="22", REGISTRYFS_RAW_LINKS="yes", REGISTRYFS_LOG="")
    conf = m.dir / "config" / "registryfs" / "config"
    conf.parent.mkdir()
    conf.write_text("# a comment\ntag_ttl = 11\ntimeout = 12\n\ntransfers = 3\n")
    mounted(m)
    c = config(m)
    assert c["tag_ttl"] == ("31", "command line")
    assert c["timeout"] == ("22", "environment: REGISTRYFS_TIMEOUT")
    assert c["raw_links"] == ("yes", "environment: REGISTRYFS_RAW_LINKS")
    assert c["transfers"] == ("3", f"{conf}:5")
    assert c["cache_size"] == ("10G", "default")
    assert c["cache"] == (str(m.dir / "cache" / "registryfs"), "default")
    assert c["log"] == (str(m.logfile), "command line")


def test_a_mistake_in_the_environment_or_the_file_is_one_sentence_that_says_where(place, layouts):
    m = place(layouts)
    m.env["REGISTRYFS_TAG_TLL"] = "5"
    refused(m, 'REGISTRYFS_TAG_TLL: unknown option "tag_tll"; the nearest is tag_ttl', USAGE)
    m = place(layouts, "tag_ttl=3")          # overruled, and still an error
    conf = m.dir / "config" / "registryfs" / "config"
    conf.parent.mkdir()
    conf.write_text("ro\ntag_ttl = soon\n")
    refused(m, rf"{conf}:2: .*\"soon\" is not a time", USAGE)


def test_a_comma_in_a_value_is_escaped(place, layouts):
    m = place(layouts)
    m.options.append(f"cache={m.dir}/a\\,b")
    mounted(m)
    assert config(m)["cache"][0] == f"{m.dir}/a,b" and (m.dir / "a,b").is_dir()


def test_mount_flags_reach_the_kernel(place, layouts):
    m = mounted(place(layouts, "ro,noexec,fsname=some name"))
    line = next(ln for ln in open("/proc/mounts") if ln.split()[1] == str(m.path)).split()
    assert line[0] == r"some\040name" and line[2] == "fuse.registryfs"
    assert {"ro", "noexec", "nosuid", "nodev", "default_permissions"} <= set(line[3].split(","))
    m = mounted(place(layouts, "suid,dev,exec"))
    flags = next(ln for ln in open("/proc/mounts") if ln.split()[1] == str(m.path)).split()[3].split(",")
    assert not {"noexec", "nosuid", "nodev", "allow_other"} & set(flags)


def test_no_secret_in_argument_lists_mount_tables_logs_or_control_files(place, make_fakereg):
    for auth in ("basic", "bearer"):
        reg = make_fakereg(auth=auth)
        reg.users = {"user": "t0psecret"}
        reg.add("app", image(), "1.0")
        m = mounted(place(reg.url, "log_level=debug", auth={reg.host: ("user", "t0psecret")}))
        assert (m.path / "app/1.0/rootfs/etc/motd").read_text() == "hello\n"
        seen = pathlib.Path(f"/proc/{m.pid}/cmdline").read_text() + open("/proc/mounts").read() + m.log
        seen += "".join((m.path / ".control" / n).read_text() for n in os.listdir(m.path / ".control"))
        seen += m.run("status", m.path).stdout
        secrets = ["t0psecret", "dXNlcjp0MHBzZWNyZXQ=", *reg.tokens, *reg.refresh_tokens]
        assert not [s for s in secrets if s in seen]
        assert f"{reg.host}: user user from " in seen
        m.umount()


# ---- a mount without SOURCE


def test_without_source_the_root_has_the_embedded_registry_and_the_configured_ones(place, fakereg):
    fakereg.add("team/app", image("remote\n"), "1.0")
    m = place(None, f"registries=http://{fakereg.host}+quay.example")
    write_layout(m.dir / "data" / "registryfs" / "registry" / "sample", {"1.0": image("embedded\n")})
    mounted(m)
    assert sorted(os.listdir(m.path)) == sorted(["local", fakereg.host, "quay.example"])
    assert (m.path / "local/sample/1.0/rootfs/etc/motd").read_text() == "embedded\n"
    assert (m.path / fakereg.host / "team/app/1.0/rootfs/etc/motd").read_text() == "remote\n"
    names = {r["name"]: r for r in info(m)["registries"]}
    assert set(names) == {"local", fakereg.host, "quay.example"} and names["local"]["backend"] == "dir"
    assert not [r for r in names.values() if r["credentials"] != r["credentials"].strip()]
    repo = json.loads((m.path / "local/sample/.control/info.json").read_text())
    assert repo["registry"] == "local"


def test_the_word_none_means_no_source(place):
    m = mounted(place("none"))
    assert os.listdir(m.path) == ["local"]


def test_a_host_is_looked_up_when_it_is_named_and_listed_from_then_on(place, make_fakereg, authority):
    reg = make_fakereg(authority=authority)
    reg.add("app", image("tls\n"), "1.0")
    m = place()
    certs = m.dir / "config" / "containers" / "certs.d" / reg.host
    certs.mkdir(parents=True)
    shutil.copy(authority.ca, certs / "ca.crt")
    mounted(m)
    assert os.listdir(m.path) == ["local"] and reg.count() == 0
    assert (m.path / reg.host / "app/1.0/rootfs/etc/motd").read_text() == "tls\n"
    assert sorted(os.listdir(m.path)) == sorted(["local", reg.host])


def test_a_named_host_on_this_machine_may_speak_plain_http(place, fakereg):
    fakereg.add("app", image("plain\n"), "1.0")
    m = mounted(place())
    for host in (fakereg.host, f"localhost:{fakereg.port}"):
        assert (m.path / host / "app/1.0/rootfs/etc/motd").read_text() == "plain\n"


def test_a_named_host_on_this_machine_with_a_bad_certificate_is_refused(place, make_fakereg, authority):
    reg = make_fakereg(authority=authority)
    m = mounted(place())
    assert error_of(os.listdir, m.path / reg.host) == errno.EIO
    assert "no trusted TLS connection" in (m.path / ".control/errors").read_text()


def test_a_named_host_that_is_not_there_or_never_a_registry_does_not_exist(place):
    m = mounted(place())
    gone = f"127.0.0.1:{free_port()}"
    assert error_of(os.stat, m.path / gone) == errno.ENOENT
    assert f"{gone} cannot be reached" in (m.path / ".control/errors").read_text()
    for name in ("plainword", "169.254.169.254", "0.0.0.0:80", ".git", ".hidden.example", "UPPER CASE"):
        assert error_of(os.stat, m.path / name) == errno.ENOENT, name
    assert os.listdir(m.path) == ["local"]


def test_under_allow_other_only_configured_hosts_are_used(place, make_fakereg):
    known, other = make_fakereg(), make_fakereg()
    known.add("app", image(), "1.0")
    m = mounted(place(None, f"allow_other,registries=http://{known.host}"))
    assert (m.path / known.host / "app/1.0/digest").read_text()
    assert error_of(os.stat, m.path / other.host) == errno.ENOENT
    assert other.count() == 0


# ---- an ordinary user


class User:
    """An ordinary user with a home of his own, a program he may run, and a /dev/fuse that he may open, as on every machine
    with udev: in a mount namespace, so that the machine's own stays as it is."""

    def __init__(self, m, uid):
        self.m, self.uid = m, uid
        m.dir.chmod(0o755)
        self.program = m.dir / "registryfs"
        shutil.copy(program(), self.program)
        self.program.chmod(0o755)
        for d, _, _ in os.walk(m.dir):
            os.chown(d, uid, uid)
        self.fuse = m.dir / "fuse"
        os.mknod(self.fuse, 0o600 | 0o020000, os.makedev(10, 229))
        self.fuse.chmod(0o666)
        self.room = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "--propagation", "private", "sh", "-c",
                                      f"mount --bind {self.fuse} /dev/fuse && echo ready && exec sleep 1000"], stdout=subprocess.PIPE)
        assert self.room.stdout.readline() == b"ready\n"

    def leave(self):
        self.room.kill()
        self.room.wait()
        self.room.stdout.close()

    def root(self, *args):
        """A command in the room, by root."""
        return subprocess.run(["nsenter", f"--mount=/proc/{self.room.pid}/ns/mnt", *map(str, args)], env=self.m.env, cwd="/",
                              capture_output=True, text=True, timeout=40)

    def does(self, *args):
        return self.root("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", *args)

    def run(self, *args):
        """registryfs, by the user."""
        return self.does(self.program, *args)

    def table(self):
        return [ln.split() for ln in open(f"/proc/{self.room.pid}/mounts") if ln.split()[1] == str(self.m.path)]

    def mount(self):
        p = self.run(*self.m.arguments())
        assert (p.returncode, p.stdout, p.stderr) == (0, "", "")
        self.m.pid, self.m.status = json.loads(self.does("cat", self.m.path / ".control/info.json").stdout)["pid"], None


@pytest.fixture
def user(place):
    """user(source, options, uid=...) -> a User with a mount that is not started."""
    made = []

    def make(source=None, options=(), uid=NOBODY):
        made.append(User(place(source, options), uid))
        return made[-1]
    yield make
    for u in made:
        u.run("umount", "-l", u.m.path)
        u.leave()


def test_an_ordinary_user_mounts_and_unmounts_through_fusermount3(user, fakereg):
    fakereg.add("app", image(), "1.0")
    u = user(fakereg.url, "suid,dev,noexec")
    u.mount()
    line = u.table()[0]
    assert {"nosuid", "nodev", "noexec", f"user_id={NOBODY}"} <= set(line[3].split(",")) and line[2] == "fuse.registryfs"
    inside = u.does("cat", u.m.path / "app/1.0/rootfs/etc/motd", u.m.path / ".control/config")
    assert inside.stdout.startswith("hello\n") and "suid=yes  (command line; ignored, only root may)" in inside.stdout
    assert "Permission denied" in u.root("ls", u.m.path).stderr                 # not even root may look inside
    status = u.root(program(), "status", u.m.path)
    assert status.returncode == DONE and f"of user {NOBODY}, who alone may look inside" in status.stdout
    status = u.run("status", u.m.path)
    assert status.returncode == DONE and f"process   {u.m.pid}, up" in status.stdout
    p = u.run("umount", u.m.path)
    assert (p.returncode, p.stderr) == (0, "")
    assert not u.table() and u.m.wait(10) == 0


def test_an_ordinary_users_busy_mount_is_not_unmounted(user):
    u = user()
    u.mount()
    sitter = subprocess.Popen(["nsenter", f"--mount=/proc/{u.room.pid}/ns/mnt", "setpriv", f"--reuid={NOBODY}",
                               f"--regid={NOBODY}", "--clear-groups", "sh", "-c", f"cd {u.m.path} && echo in && exec sleep 100"], stdout=subprocess.PIPE)
    assert sitter.stdout.readline() == b"in\n"
    sentence(u.run("umount", u.m.path), rf"in use by .*{sitter.pid} \(sleep\)", BUSY)
    assert u.run("umount", "-l", u.m.path).returncode == DONE and not u.table()
    sitter.kill()
    sitter.communicate()
    assert u.m.wait(15) == 0


def test_an_ordinary_users_dead_mount_is_replaced_by_his_next_one(user):
    u = user()
    u.mount()
    dead(u.m)
    assert "not connected" in u.does("ls", u.m.path).stderr
    u.mount()
    assert len(u.table()) == 1
    p = u.run("umount", u.m.path)
    assert (p.returncode, p.stderr) == (0, "") and not u.table()


def test_an_ordinary_user_cannot_unmount_what_another_has_mounted(user, layouts):
    u = user(uid=STRANGER)
    p = u.root(program(), *u.m.arguments())
    assert p.returncode == 0, p.stderr
    sentence(u.run("umount", u.m.path), "was mounted by user 0; only they or root may unmount it")
    assert len(u.table()) == 1
    assert u.root(program(), "umount", u.m.path).returncode == 0


def test_an_ordinary_user_is_told_where_he_may_mount(user):
    u = user()
    os.chown(u.m.path, 0, 0)
    sentence(u.run(*u.m.arguments()), "mount only on a directory that you can write to")


def test_a_dev_fuse_that_may_not_be_opened_is_one_sentence(user):
    u = user()
    u.fuse.chmod(0o600)
    sentence(u.run(*u.m.arguments()), "may not use /dev/fuse .*chmod 666 /dev/fuse")


def test_allow_other_of_an_ordinary_user_names_the_line_that_is_missing(user):
    u = user(None, "allow_other")
    (u.m.dir / "fuse.conf").write_text("# nothing\n")
    assert u.root("mount", "--bind", u.m.dir / "fuse.conf", "/etc/fuse.conf").returncode == 0
    sentence(u.run(*u.m.arguments()), "allow_other needs the line user_allow_other in /etc/fuse.conf")


# ---- mount(8), fstab


@pytest.fixture
def helper(tmp_path):
    """A directory with the links an installation makes in /sbin."""
    d = tmp_path / "sbin"
    d.mkdir()
    for name in ("mount.registryfs", "umount.registryfs"):
        (d / name).symlink_to(program())
    return d


def test_mount_t_registryfs_and_umount_8(place, layouts, helper):
    m = place(layouts)
    p = apart("""mount --bind "$1" /sbin/; mount -t registryfs -o "log=$4" "$2" "$3"
                 cat "$3/app/1.0/rootfs/etc/motd"; grep "$3" /proc/mounts
                 umount "$3"; ! grep "$3" /proc/mounts""", m.env, helper, layouts, m.path, m.logfile)
    assert p.returncode == 0, p.stdout + p.stderr
    assert p.stdout.startswith("hello\n") and f"{layouts} {m.path} fuse.registryfs " in p.stdout
    assert not is_mounted(m.path)
    eventually(lambda: not _processes(m.token))


def test_a_line_of_fstab_with_generic_options_mounts(place, layouts, helper):
    m = place(layouts)
    (m.dir / "fstab").write_text(f"{layouts} {m.path} registryfs noauto,x-systemd.automount,x-systemd.idle-timeout=60,_netdev,nofail,"
                                 f"user,defaults,noatime,comment=x,ro,noexec,tag_ttl=5m,log={m.logfile} 0 0\n")
    p = apart("""mount --bind "$1" /sbin/; mount -T "$2" "$3"; cat "$3/.control/config"; grep "$3" /proc/mounts; umount "$3" """,
              m.env, helper, m.dir / "fstab", m.path)
    assert p.returncode == 0, p.stdout + p.stderr
    assert "tag_ttl=5m  (command line)" in p.stdout and re.search(r"ro,nosuid,nodev,noexec", p.stdout)
    eventually(lambda: not _processes(m.token))


def test_the_helper_speaks_mount_8s_statuses(place, layouts, helper):
    m = place(layouts)

    def call(*args, name="mount.registryfs"):
        return subprocess.run([helper / name, *map(str, args)], env=m.env, capture_output=True, text=True, timeout=30)
    sentence(call(layouts, m.path, "-o", "ro,rw"), "both ro and rw", 1)
    sentence(call(layouts, m.path, "-o", "nonsense"), "unknown option", 1)
    sentence(call(layouts, m.path, "-o", "foreground"), "no place in fstab", 1)
    sentence(call(layouts), "the directory to mount on is missing", 1)
    sentence(call(layouts, m.dir / "nowhere"), "does not exist", 32)
    sentence(call(f"http://127.0.0.1:{free_port()}", m.path), "cannot be reached", 32)
    sentence(call(m.path, name="umount.registryfs"), "nothing is mounted", 32)
    fake = call(layouts, m.path, "-f", "-o", "rw")
    assert (fake.returncode, fake.stderr) == (0, "") and not is_mounted(m.path)
    p = call(layouts, m.path, "-s", "-n", "-v", "-o", f"rw,nonsense,_netdev,log={m.logfile}")
    assert (p.returncode, p.stderr) == (0, "")
    m.pid = info(m)["pid"]
    p = call(m.path, "-n", name="umount.registryfs")
    assert (p.returncode, p.stderr) == (0, "") and not is_mounted(m.path)


def test_the_helper_finds_its_directories_without_home_and_path(place, layouts, helper):
    m = place(layouts)
    env = {k: v for k, v in m.env.items() if k not in ("HOME", "PATH")}
    p = subprocess.run([helper / "mount.registryfs", layouts, m.path, "-o", f"log={m.logfile}"], env=env, capture_output=True, text=True)
    assert (p.returncode, p.stderr) == (0, "")
    m.pid = info(m)["pid"]


# ---- help, version, manual, completions


def options_of_help(m):
    """{option: its value's name or None} as `registryfs help mount` lists them."""
    text = m.run("help", "mount", check=True).stdout.split("Options (")[1]
    return {n: v or None for n, v in re.findall(r"^  ([a-z_]+)(?:=(\S+))?  ", text, re.M)}


def commands_of_help(m):
    return re.findall(r"^  ([a-z-]+) {2,}\S", m.run("help", check=True).stdout, re.M)


def test_help_lists_only_what_exists(place):
    m = place()
    commands = commands_of_help(m)
    assert {"mount", "umount", "status", "version", "help"} <= set(commands)
    for c in commands:
        p = m.run("help", c, check=True)
        assert p.stdout.startswith(f"usage: registryfs {'[mount]' if c == 'mount' else c}") and p.stderr == ""
        assert c == "help" or m.run(c, "--help", check=True).stdout == p.stdout
    good = {"TIME": "60", "SIZE": "1G", "N": "2", "DIR": "/tmp/x", "FILE": "/tmp/x", "HOST+HOST..": "a.example", "NAME": "x",
            "OS/ARCH[/VARIANT]": "linux/amd64", "yes|no": "yes", "LEVEL": "info", "auto|v2|off": "v2"}
    options = options_of_help(m)
    assert len(options) > 20
    for name, value in options.items():      # accepted: what stops it is the mount point, not the option
        word = f"{name}={good[value]}" if value else name
        sentence(m.run("-o", word, m.dir / "nowhere"), "does not exist; make it first")


def test_what_is_no_command_is_one_sentence_that_names_the_nearest(place):
    m = place()
    sentence(m.run("umuont", m.path), "unknown command 'umuont'; the nearest is umount", USAGE)
    sentence(m.run("statsu"), "unknown command 'statsu'; the nearest is status", USAGE)
    sentence(m.run("frobnicate"), "unknown command 'frobnicate'; `registryfs help`", USAGE)
    sentence(m.run("help", "mout"), "the nearest is mount", USAGE)
    assert m.run("login-password", "x.example").returncode == USAGE      # not there yet, and not taken for a mount point


def test_no_argument_prints_help_and_ends_with_2(place):
    m = place()
    p = m.run()
    assert p.returncode == USAGE and p.stdout == "" and p.stderr == m.run("--help").stdout == m.run("help").stdout


def test_version_is_one_line(place):
    m = place()
    outs = {m.run(a, check=True).stdout for a in ("version", "--version", "-V")}
    assert len(outs) == 1 and re.fullmatch(r"registryfs \d+\.\d+\.\d+\S*\n", outs.pop())


def test_the_manual_renders_without_a_warning(tools):
    p = subprocess.run([tools("groff"), "-mandoc", "-ww", "-Tutf8", "-P-cbou", MAN], capture_output=True, text=True)
    assert p.returncode == 0 and p.stderr == "", p.stderr
    assert "registryfs — show container registries as directories" in p.stdout
    p = subprocess.run([tools("mandoc"), "-T", "lint", "-W", "warning", MAN], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout


def test_the_manual_has_every_command_option_and_status(place):
    m, text = place(), MAN.read_text()
    flat = re.sub(r"^\.\w+ ?", "", text, flags=re.M)
    for c in commands_of_help(m):
        assert re.search(rf"^\.(It )?Cm {c}$", text, re.M), c
    for o in options_of_help(m):
        assert re.search(rf"^\.It Cm ([a-z_]+ , )?{o}\b", text, re.M) or re.search(rf"\b{o}\b", flat), o
    known = set(options_of_help(m)) | set(commands_of_help(m))
    section = text.split(".Sh OPTIONS")[1].split(".Sh CREDENTIALS")[0]
    listed = {w for ln in re.findall(r"^\.It Cm (.*)$", section, re.M) for w in re.findall(r"^(\w+)|, Cm (\w+)", ln) for w in w if w}
    assert listed <= known, listed - known
    assert re.findall(r"^\.It (\d)$", text.split(".Sh EXIT STATUS")[1], re.M) == [str(n) for n in range(6)]


def complete(words, env=None):
    """What bash offers for the last word."""
    script = 'compopt() { :; }; . "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _registryfs; printf "%s\\n" "${COMPREPLY[@]}"'
    p = subprocess.run(["bash", "-c", script, "bash", ROOT / "contrib/completions/registryfs.bash", *words],
                       capture_output=True, text=True, env=env, cwd="/")
    assert p.returncode == 0 and p.stderr == "", p.stderr
    return p.stdout.split("\n")[:-1]


def test_bash_completes_commands_options_and_mount_points(place, layouts):
    m = place(layouts)
    commands, options = commands_of_help(m), options_of_help(m)
    assert set(commands) <= set(complete(["registryfs", ""]))
    assert complete(["registryfs", "umo"]) == ["umount"]
    assert sorted(complete(["registryfs", "help", ""])) == sorted(commands)
    offered = {w.rstrip("=") for w in complete(["registryfs", "-o", ""])}
    assert offered == set(options), offered ^ set(options)
    assert complete(["registryfs", "-o", "tag"]) == ["tag_ttl="]
    assert complete(["registryfs", "mount", "-o", "ro,raw"]) == ["ro,raw_links"]
    assert complete(["registryfs", "-o", "tls_verify="]) == ["tls_verify=yes", "tls_verify=no"]
    assert complete(["registryfs", "-o", "ro,log_level=d"]) == ["ro,log_level=debug"]
    assert set(complete(["registryfs", "-"])) == {"-o", "-f", "-d", "--help", "--version"}
    assert "dir:/etc" in complete(["registryfs", "dir:/et"])
    mounted(m)
    for command in ("umount", "status"):
        assert str(m.path) in complete(["registryfs", command, ""])


def test_the_other_shells_completions_name_every_command_and_option(place):
    m = place()
    for name in ("_registryfs", "registryfs.fish"):
        text = (ROOT / "contrib/completions" / name).read_text()
        missing = [w for w in [*commands_of_help(m), *options_of_help(m)] if not re.search(rf"\b{w}\b", text)]
        assert not missing, f"{name}: {missing}"
