"""Runs registryfs in a test: a Mount with its own home, cache and log, cleaned up whatever happens.

    with Mount(reg.url) as m:
        assert (m.path / "app" / "1.0" / "digest").read_text() == ...
        m.stats()["http_requests"]

The program is $REGISTRYFS (default build/registryfs). Leaving the block unmounts, and fails the test if the program
crashed, ended with another status than 0, or if its log or a sanitizer reported a bug (see `clean`).
"""
import base64
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUGS = re.compile(r"ERROR: (Address|Leak|Memory)Sanitizer|runtime error:|ThreadSanitizer|\bBUG\b")
TOKEN = "RFS_TEST_TOKEN"              # in the environment of everything a Mount starts: how its processes are found


def program():
    path = pathlib.Path(os.environ.get("REGISTRYFS") or ROOT / "build" / "registryfs")
    assert path.exists(), f"{path} is not there: build it, or say where it is with $REGISTRYFS"
    return str(path.resolve())


def _adopt_orphans():
    """Daemons started from here become our children, so that their exit status can be seen."""
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)       # PR_SET_CHILD_SUBREAPER


def _processes(token):
    found, mark = [], f"{TOKEN}={token}".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if mark in pathlib.Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
            except OSError:
                pass
    return found


def is_mounted(path):
    escaped = str(path).replace("\\", "\\134").replace(" ", "\\040").replace("\n", "\\012").replace("\t", "\\011")
    with open("/proc/self/mountinfo") as f:
        return any(line.split()[4] == escaped for line in f)


def below(*roots):
    """Yields (path, lstat) for all that is below these directories; a busy mount moves files about, and what is gone is left out."""
    for root in roots:
        for d, dirs, files in os.walk(root):
            for p in (pathlib.Path(d, name) for name in dirs + files):
                try:
                    yield p, p.lstat()
                except FileNotFoundError:
                    pass


class Mount:
    """source: what follows the options (None: no SOURCE). options: "a,b" or a list. auth: {host: (user, password)}.

    keep: a directory for home, cache and state instead of a temporary one: mount again with the same one to see what
    survives. foreground: -f. wrapper: command put in front (["valgrind", ...]). mountpoint: made if absent.
    clean=False: how it ends and what it logs is the test's business.
    """

    def __init__(self, source=None, options=(), auth=None, env=None, keep=None, clean=True, foreground=False, wrapper=(),
                 mountpoint=None, timeout=30, cafile=None):
        self.source, self.clean, self.foreground, self.wrapper = source, clean, foreground, list(wrapper)
        self.options = options.split(",") if isinstance(options, str) else list(options)
        self.timeout, self._own = timeout, keep is None
        self.dir = pathlib.Path(keep) if keep else pathlib.Path(tempfile.mkdtemp(prefix="registryfs-mount."))
        self.path = pathlib.Path(mountpoint) if mountpoint else self.dir / "mnt"
        self.logfile = self.dir / "log"
        self.pid = self.status = self.output = self._child = None
        self.token = uuid.uuid4().hex
        self.env = self._environment(auth or {}, cafile, env or {})

    def _environment(self, auth, cafile, extra):
        home = self.dir / "home"
        dirs = {"HOME": home, "XDG_CACHE_HOME": self.dir / "cache", "XDG_STATE_HOME": self.dir / "state",
                "XDG_DATA_HOME": self.dir / "data", "XDG_CONFIG_HOME": self.dir / "config",
                "XDG_RUNTIME_DIR": self.dir / "run", "DOCKER_CONFIG": self.dir / "docker"}
        for d in dirs.values():
            d.mkdir(mode=0o700, parents=True, exist_ok=True)
        if auth:
            auths = {h: {"auth": base64.b64encode(f"{u}:{p}".encode()).decode()} for h, (u, p) in auth.items()}
            (self.dir / "docker" / "config.json").write_text(json.dumps({"auths": auths}))
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "TZ")}
        san = f"log_path={self.dir}/sanitizer"
        env = {**keep, **{k: str(v) for k, v in dirs.items()}, TOKEN: self.token}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"):
            more = os.environ.get(name)
            env[name] = san + (":" + more if more else "") + (":print_stacktrace=1" if name == "UBSAN_OPTIONS" else "")
        if cafile:                    # containers' way of naming an authority: certs.d/<host>/ca.crt
            host = self.source.split("://")[-1].split("/")[0]
            d = self.dir / "config" / "containers" / "certs.d" / host
            d.mkdir(parents=True, exist_ok=True)
            shutil.copy(cafile, d / "ca.crt")
        return {**env, **extra}

    def run(self, *args, check=False, timeout=None, input=None):
        """registryfs with these arguments, in this mount's environment; a CompletedProcess with text output."""
        p = subprocess.run([program(), *map(str, args)], env=self.env, text=True, capture_output=True, input=input,
                           timeout=timeout or self.timeout)
        assert not check or p.returncode == 0, f"registryfs {args}: {p.returncode}\n{p.stdout}{p.stderr}"
        return p

    def arguments(self):
        args = ["-f"] if self.foreground else []
        args += ["-o", ",".join([f"log={self.logfile}", *self.options])]
        return args + ([str(self.source)] if self.source else []) + [str(self.path)]

    def start(self):
        """Mounts and waits until it answers; AssertionError with the output if it does not."""
        _adopt_orphans()
        self.path.mkdir(parents=True, exist_ok=True)
        self.status = None
        command = [*self.wrapper, program(), *self.arguments()]
        out = open(self.dir / "output", "w+")
        self._child = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            if self._child.poll() is not None or (self.foreground and is_mounted(self.path)):
                break
            time.sleep(0.01)
        self.output = (self.dir / "output").read_text(errors="replace")
        out.close()
        if self.foreground and self._child.poll() is None and is_mounted(self.path):
            self.pid = self._child.pid
            return self
        if self._child.poll() == 0 and not self.foreground:
            # the daemon itself, not a helper it may have started
            pids = [p for p in _processes(self.token) if p != self._child.pid]
            if pids and is_mounted(self.path):
                self.pid = min(pids)
                return self
        code = self._child.poll()
        self._force()
        raise AssertionError(f"{' '.join(command)}: {'no answer' if code is None else f'status {code}'}\n{self.output}{self.log[-3000:]}")

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self._remove()
            raise

    def __exit__(self, kind, value, trace):
        try:
            problems = self.finish()
        finally:
            log = self.log
            self._remove()
        if kind is None:
            assert not problems, "\n".join(problems) + "\n--- log\n" + log[-3000:]

    def finish(self):
        """Unmounts and ends everything; returns what was wrong (nothing when clean=False)."""
        problems = []
        try:
            if self.alive() and is_mounted(self.path):
                self.umount()
        except (AssertionError, subprocess.TimeoutExpired) as e:
            problems.append(f"unmounting: {e}")
        if self.pid and self.wait(10) is None and self.alive():
            problems.append(f"process {self.pid} does not end")
        self._force()
        if self.status not in (0, None):
            problems.append(f"registryfs ended with {self.status}")
        for report in [self.logfile, self.dir / "output", *self.dir.glob("sanitizer*")]:
            if report.exists():
                problems += [f"{report.name}: {line}" for line in report.read_text(errors="replace").splitlines() if BUGS.search(line)]
        return problems if self.clean else []

    def umount(self, timeout=None):
        """registryfs umount, as a user does it; waits until the daemon is gone."""
        p = self.run("umount", self.path, timeout=timeout or self.timeout)
        assert p.returncode == 0, f"registryfs umount: {p.returncode}\n{p.stdout}{p.stderr}"
        self.wait(timeout or self.timeout)

    def fusermount(self):
        """fusermount3 -u, as a user does it who does not know better."""
        subprocess.run(["fusermount3", "-u", str(self.path)], check=True, capture_output=True)
        self.wait(self.timeout)

    def kill9(self):
        """SIGKILL; what is left of the mount is taken away. The directory can be mounted again with start()."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait(10)
        self._lazy()
        self.status = None

    def alive(self):
        if not self.pid:
            return False
        self.wait(0)
        return self.status is None and pathlib.Path(f"/proc/{self.pid}").exists()

    def wait(self, seconds):
        """The exit status once the daemon has ended (negative: signal), else None."""
        end = time.monotonic() + seconds
        while self.pid and self.status is None:
            if self.foreground:
                self.status = self._child.poll()
            else:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                    if pid:
                        self.status = os.waitstatus_to_exitcode(status)
                except ChildProcessError:
                    if not pathlib.Path(f"/proc/{self.pid}").exists():
                        return None
            if self.status is not None or time.monotonic() >= end:
                break
            time.sleep(0.01)
        return self.status

    def _lazy(self):
        if is_mounted(self.path):
            subprocess.run(["fusermount3", "-uz", str(self.path)], capture_output=True)

    def _force(self):
        self._lazy()
        for pid in _processes(self.token):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self._child and self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        self.wait(5)

    def _remove(self):
        self._force()
        if self._own and not is_mounted(self.path):
            shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def log(self):
        return self.logfile.read_text(errors="replace") if self.logfile.exists() else ""

    def stats(self):
        """.control/stats as a dict; numbers as numbers."""
        out = {}
        for line in (self.path / ".control" / "stats").read_text().splitlines():
            name, _, value = line.partition(" ")
            try:
                out[name] = int(value)
            except ValueError:
                try:
                    out[name] = float(value)
                except ValueError:
                    out[name] = value
        return out

    def rss(self):
        """Resident memory in bytes."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
