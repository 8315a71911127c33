"""The tools that are measured: how each makes the benchmark image's tree appear at a path, and where it comes from.

podman, skopeo, umoci and crane are installed by tests/install-tools.sh, ratarmount by install() from PyPI into the tests'
cache. ocifuse (github.com/imjasonh/ocifuse), ocifs (github.com/greatliontech/ocifs), stargz-store
(github.com/containerd/stargz-snapshotter, cmd/stargz-store) and a mkfs.erofs that knows --oci (erofs-utils 1.9, with
--enable-oci) are used when found in PATH or in the cache's bin, and reported as missing otherwise.
"""
import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import proc
from lib import servers, tocimages

ROOT = pathlib.Path(__file__).resolve().parents[2]
RATARMOUNT = "ratarmount==1.3.0 ratarmountcore==0.11.1 mfusepy==3.1.1"
VENV = servers.CACHE / "ratarmount-venv"
FIRST, LAST = "usr/lib/os-release", "etc/motd"       # a file of the lowest layer, a file of the top layer


def install():
    """What apt, pip and go have; a peer that cannot be installed is left out."""
    subprocess.run([ROOT / "tests/install-tools.sh"], check=True, stdout=sys.stderr)
    if not shutil.which("igzip"):
        subprocess.run(["apt-get", "-qq", "-y", "install", "--no-install-recommends", "isal"], stdout=subprocess.DEVNULL)
    stamp = VENV / ".version"
    if stamp.exists() and stamp.read_text() == RATARMOUNT:
        return
    print("bench: pip: ratarmount", file=sys.stderr)
    make = [sys.executable, "-m", "venv", "--clear", VENV]
    try:
        if subprocess.run(make, stdout=subprocess.DEVNULL).returncode:
            apt = ["apt-get", "-qq", "-y", "install", "--no-install-recommends", "python3-venv"]
            subprocess.run(apt, check=True, stdout=subprocess.DEVNULL)
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([VENV / "bin/pip", "-q", "install", *RATARMOUNT.split()], check=True, stdout=sys.stderr)
        stamp.write_text(RATARMOUNT)
    except (OSError, subprocess.SubprocessError) as e:
        print(f"bench: ratarmount could not be installed: {e}", file=sys.stderr)


def program(name):
    """The path of a peer's program; raises servers.Missing."""
    if name == "ratarmount" and (VENV / "bin/ratarmount").exists():
        return str(VENV / "bin/ratarmount")
    return servers.tool(name)


class Tool:
    """open() is timed, and has until self.deadline. lazy: what is fetched depends on what is read, so that every file is
    measured from nothing; for the others one open() counts for all rows."""
    name, programs, lazy, version = "", (), False, ()
    parts = ("first", "last", "find", "all", "python")
    tag, beside = "1.0", "registryfs"      # which image; the row that it is compared with
    ours, counted, can_restart = False, True, False

    def __init__(self, bench, scratch):
        self.bench, self.scratch = bench, pathlib.Path(scratch)
        self.image, self.mnt = f"{bench.host}/app:{self.tag}", self.scratch / "mnt"
        self.deadline, self.peak, self.process = 0, 0.0, None
        self.env = {**os.environ, "HOME": str(scratch)}
        for v in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            self.env.pop(v, None)

    @classmethod
    def missing(cls):
        """Why the tool cannot be measured here, or None."""
        try:
            for p in cls.programs:
                program(p)
        except servers.Missing:
            return f"{p} was not found"
        return None

    @classmethod
    def versions(cls):
        """'skopeo 1.9.3'; the programs' own words."""
        said = []
        for p in cls.version:
            out = subprocess.run([program(p), "version" if p == "crane" else "--version"], capture_output=True, text=True)
            said.append(f"{p} {next((w for w in out.stdout.split() if w.lstrip('v')[:1].isdigit()), '?').lstrip('v')}")
        return said

    def open(self):
        raise NotImplementedError

    def read_one(self, what):
        """The bytes of a file, from nothing; only for tools whose open() returns None."""
        raise NotImplementedError

    def tags(self, host, scratch):
        """The command that lists the tags of host/many, if the tool has one."""

    def run(self, *command):
        done = proc.run(*command, deadline=self.deadline, env=self.env)
        self.peak = max(self.peak, done.peak)
        return done.out

    def daemon(self, *command, at=None):
        """Starts a filesystem that stays in the foreground, and waits until it is mounted at self.mnt, or `at`."""
        at = at or self.mnt
        at.mkdir(exist_ok=True)
        with open(self.scratch / "daemon.log", "wb") as log:
            self.process = proc.start(command, log, log, self.env)
        while not proc.mounted(at):
            if self.process.poll() is not None:
                lines = (self.scratch / "daemon.log").read_text(errors="replace").splitlines()
                raise proc.Failed(f"{os.path.basename(command[0])}: {lines[-1] if lines else 'ended'}")
            if time.monotonic() > self.deadline:
                raise proc.TooLong
            time.sleep(0.005)
        return at

    def copy(self):
        """skopeo copies the image to a layout; returns the layers' paths."""
        self.run("skopeo", "copy", "--src-tls-verify=false", f"docker://{self.image}", f"oci:{self.scratch}/oci:1.0")
        blobs = self.scratch / "oci/blobs/sha256"
        index = json.loads((self.scratch / "oci/index.json").read_text())
        manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
        return [blobs / layer["digest"][7:] for layer in manifest["layers"]]

    def rss(self):
        return max(self.peak, proc.daemon_peak(self.process.pid) if self.process else 0)

    def cpu(self):
        """Seconds that a daemon has computed so far; None without one."""
        return proc.cpu(self.process.pid) if self.process else None

    def stored(self):
        """The directories that it keeps the image in, or nothing."""
        return []

    def streams(self):
        """Whether layers were read whole although the format says where everything is, as far as the tool tells."""
        return False

    def stop(self):
        """Ends what open() started and keeps what is on disk, where can_restart."""
        self.close()

    def close(self):
        if proc.mounted(self.mnt):
            subprocess.run(["fusermount3", "-uz", self.mnt], stderr=subprocess.DEVNULL)
        if self.process:
            proc.end(self.process, 15)


class Registryfs(Tool):
    name, lazy, ours, can_restart = "registryfs", True, True, True

    def open(self):
        self.mnt.mkdir(exist_ok=True)
        # to a log, since the daemon keeps what it was started with
        with open(self.scratch / "log", "wb") as log:
            subprocess.run([self.bench.program, "-o", f"cache={self.scratch}/cache", self.bench.registry.url, self.mnt],
                           check=True, env=self.env, stdout=log, stderr=log)
        self.pid = json.loads((self.mnt / ".control/info.json").read_text())["pid"]
        proc.go_first(self.pid)
        return self.mnt / "app" / self.tag / "rootfs"

    def streams(self):
        said = proc.run("getfattr", "--only-values", "-n", "user.registryfs.lazy", self.mnt / "app" / self.tag / "layers/00",
                        deadline=time.monotonic() + 10, check=False)
        return said.out.strip() in (b"", b"streamed")

    def rss(self):
        return proc.daemon_peak(self.pid)

    def cpu(self):
        return proc.cpu(self.pid)

    def stored(self):
        return [self.scratch / "cache"]

    def close(self):
        if proc.mounted(self.mnt):
            subprocess.run([self.bench.program, "umount", self.mnt], check=True, stdout=subprocess.DEVNULL)


class Podman(Tool):
    name, programs, version, can_restart = "podman pull + mount", ("podman",), ("podman",), True

    def podman(self, *args):
        return self.run("podman", "--root", self.scratch / "root", "--runroot", self.scratch / "run", *args).decode().strip()

    def open(self):
        if not (self.scratch / "pulled").exists():
            self.podman("pull", "-q", "--tls-verify=false", self.image)
            (self.scratch / "pulled").touch()
        return pathlib.Path(self.podman("image", "mount", self.image))

    def tags(self, host, scratch):
        return ["podman", "--root", f"{scratch}/root", "--runroot", f"{scratch}/run", "search", "--list-tags", "--limit", "20000",
                "--tls-verify=false", f"{host}/many"]

    def stored(self):
        return [self.scratch / "root"]

    def stop(self):
        self.podman("image", "umount", "--all", "--force")

    def close(self):
        self.deadline = time.monotonic() + 60
        self.podman("image", "umount", "--all", "--force")
        self.podman("rmi", "--all", "--force")


class Umoci(Tool):
    name, programs, version = "skopeo + umoci", ("skopeo", "umoci"), ("skopeo", "umoci")

    def open(self):
        self.copy()
        self.run("umoci", "raw", "unpack", "--image", f"{self.scratch}/oci:1.0", self.scratch / "rootfs")
        return self.scratch / "rootfs"

    def tags(self, host, scratch):
        return ["skopeo", "list-tags", "--tls-verify=false", f"docker://{host}/many"]


class Crane(Tool):
    name, programs, version = "crane export, tar -x", ("crane",), ("crane",)

    def open(self):
        (self.scratch / "rootfs").mkdir()
        self.run("sh", "-c", '"$1" export --insecure "$2" - | tar -x -C "$3"', "-", program("crane"), self.image,
                 self.scratch / "rootfs")
        return self.scratch / "rootfs"

    def tags(self, host, scratch):
        return [program("crane"), "ls", "--insecure", f"{host}/many"]


class CraneOne(Tool):
    """One file out of the stream. The clock stops when its bytes have come out: tar itself reads its input to the end."""
    name, programs, lazy = "crane export, tar -xO FILE", ("crane",), True
    parts = ("first", "last")

    def open(self):
        return None

    def read_one(self, what):
        path = FIRST if what == "first" else LAST
        return proc.first_bytes(f"{program('crane')} export --insecure {self.image} - | tar -xO --occurrence=1 {path}",
                                len(self.bench.expected[what]), self.deadline)


class Ratarmount(Tool):
    name, programs, version = "skopeo + ratarmount", ("skopeo", "ratarmount"), ("ratarmount",)

    def open(self):
        return self.daemon(program("ratarmount"), "-f", "--index-folders", self.scratch, *self.copy(), self.mnt)


class Erofs(Tool):
    name, programs, version = "mkfs.erofs --oci + mount", ("mkfs.erofs",), ("mkfs.erofs",)

    @classmethod
    def missing(cls):
        why = super().missing()
        if why:
            return why
        known = subprocess.run([program("mkfs.erofs"), "--help"], capture_output=True, text=True).stdout
        return None if "--oci" in known else "this mkfs.erofs has no --oci"

    def open(self):
        self.mnt.mkdir()
        self.run(program("mkfs.erofs"), "--quiet", "--oci=f,insecure", self.scratch / "image", self.image)
        self.run("mount", "-t", "erofs", "-o", "ro,loop", self.scratch / "image", self.mnt)
        return self.mnt

    def close(self):
        if proc.mounted(self.mnt):
            subprocess.run(["umount", self.mnt], check=True)


class Ocifuse(Tool):
    name, programs, lazy = "ocifuse", ("ocifuse",), True

    def open(self):
        self.daemon(program("ocifuse"), self.mnt)
        # a tag is a symbolic link to its digest; followed by a child, and only once
        out = proc.run("readlink", "-f", self.mnt / self.bench.host / "app:1.0", deadline=self.deadline).out
        return pathlib.Path(out.decode().strip())


class Ocifs(Tool):
    name, programs = "ocifs", ("ocifs",)

    def open(self):
        return self.daemon(program("ocifs"), "-i", self.image, "-m", self.mnt, "-w", self.scratch / "work")


class StargzStore(Tool):
    """The additional layer store of podman and CRI-O, used as they use it: one look-up per layer, overlayfs on top."""
    name, programs, lazy, can_restart = "stargz-store", ("stargz-store",), True, True
    tag, beside = "estargz", "registryfs, estargz"

    def open(self):
        self.store = self.scratch / "store"
        self.store.mkdir(exist_ok=True)
        self.mnt.mkdir(exist_ok=True)
        config = self.scratch / "config.toml"
        config.write_text(f'[[resolver.host."{self.bench.host}".mirrors]]\nhost = "{self.bench.host}"\ninsecure = true\n')
        self.daemon(program("stargz-store"), "--root", self.scratch / "root", "--config", config, "--addr", self.scratch / "sock",
                    self.store, at=self.store)
        ref = base64.b64encode(self.image.encode()).decode()
        # names of layers have colons, which separate layers in overlayfs' option
        lower = [f"{self.store}/{ref}/{toc}/diff".replace(":", "\\:") for toc in reversed(self.tocs())]
        self.run("mount", "-t", "overlay", "-o", f"ro,lowerdir={':'.join(lower)}", "overlay", self.mnt)
        return self.mnt

    def tocs(self):
        return [la["annotations"][tocimages.TOC_DIGEST] for la in self.bench.manifest(self.tag)["layers"]]

    def rss(self):
        return proc.daemon_peak(self.process.pid)

    def stored(self):
        return [self.scratch / "root"]

    def close(self):
        if proc.mounted(self.mnt):
            proc.unmount(self.mnt)
        if self.process:
            proc.end(self.process, 15)
        if proc.mounted(self.store):
            subprocess.run(["umount", "-l", self.store], check=True)


PEERS = {"podman": Podman, "umoci": Umoci, "crane": Crane, "crane-file": CraneOne, "ratarmount": Ratarmount, "erofs": Erofs,
         "ocifuse": Ocifuse, "ocifs": Ocifs, "stargz-store": StargzStore}
