"""Runs the benchmark's commands: each in a process group of its own, with a deadline, its errors kept, its peak memory known.

Nothing here touches a measured tree from the benchmark's own process: a filesystem that hangs then hangs a child, which
can be killed. `proc.py iops ...` is such a child.
"""
import collections
import contextlib
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

Done = collections.namedtuple("Done", "out errors code peak")       # peak: MiB of the largest process


class TooLong(Exception):
    """The deadline passed; what ran has been killed."""


class Failed(Exception):
    """A tool did not do its work: the message is its own last line."""


@contextlib.contextmanager
def until(deadline):
    """Raises TooLong in a blocking wait when the deadline (of time.monotonic()) passes."""
    def ring(*_):
        raise TooLong
    left = deadline - time.monotonic()
    if left <= 0:
        raise TooLong
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, left)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


first = False       # bench.py --first


def go_first(pid="self"):
    """Every session is a group of its own to the scheduler (autogroup): nice is not enough."""
    if first:
        pathlib.Path(f"/proc/{pid}/autogroup").write_text("-20")


def start(command, out=subprocess.DEVNULL, errors=subprocess.DEVNULL, env=None):
    process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=env,
                               start_new_session=True)
    with contextlib.suppress(ProcessLookupError):
        go_first(process.pid)
    return process


def end(process, sig=signal.SIGKILL):
    """Ends a process of start() and all that it started."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, sig)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        if sig != signal.SIGKILL:
            end(process)


def run(*command, deadline, env=None, check=True):
    """Peak memory is that of the command or of any process it waited for; a fork of this interpreter is its floor."""
    with tempfile.TemporaryFile() as errors:
        process = start(command, subprocess.PIPE, errors, env)
        try:
            with until(deadline):
                out = process.stdout.read()
                _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            end(process)
            process.stdout.close()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()
    if check and process.returncode:
        raise Failed(f"{os.path.basename(str(command[0]))}: {lines[-1] if lines else f'ended with {process.returncode}'}")
    return Done(out, lines, process.returncode, usage.ru_maxrss / 1024)


def first_bytes(pipeline, count, deadline):
    """The first bytes that a shell pipeline prints; it is ended once they are there."""
    process = start(["sh", "-c", pipeline], subprocess.PIPE)
    try:
        with until(deadline):
            return process.stdout.read(count)
    finally:
        end(process)
        process.stdout.close()


def mounted(path):
    return any(line.split(" ")[1] == str(path) for line in pathlib.Path("/proc/self/mounts").read_text().splitlines())


def unmount(path):
    subprocess.run(["umount", str(path)], check=True)


def daemon_peak(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu(pid):
    """Seconds that a process has computed."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def drop_caches():
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


# ---- what is done with a tree

def cat(path, deadline):
    return run("cat", path, deadline=deadline).out


def walk(root, deadline):
    """Entries that find sees (@@meta is what ocifuse adds to an image)."""
    return int(run("sh", "-c", 'find "$1/" -name @@meta -prune -o -print | wc -l', "-", root, deadline=deadline).out)


def read_all(root, names, deadline):
    """Reads the files that a file of NUL-ended relative names lists; returns how many could not be read."""
    done = run("sh", "-c", 'cd "$1" && exec xargs -0 cat -- <"$2" >/dev/null', "-", root, names, deadline=deadline, check=False)
    return len(done.errors)


def python(root, deadline):
    """A start of the image's Python, with some of what programs import."""
    return run("chroot", root, "/usr/bin/python3.11", "-c", "import argparse, json, logging, subprocess; print('ok')",
               deadline=deadline).out


def disk_use(*paths):
    """MiB."""
    out = subprocess.run(["du", "-skc", *map(str, paths)], capture_output=True, text=True).stdout
    return int(out.splitlines()[-1].split()[0]) / 1024


def iops(root, names, deadline):
    out = run(sys.executable, __file__, "iops", root, names, deadline=deadline).out.split()
    return int(out[0]) / float(out[1])


def _iops(root, names, count=2000, seconds=10):
    """Prints how many reads were made in what time: count reads, or fewer when they take more than some seconds."""
    fds = []
    for name in pathlib.Path(names).read_text().split("\0")[:20]:
        fd = os.open(os.path.join(root, name), os.O_RDONLY)
        fds.append((fd, os.fstat(fd).st_size))
    drop_caches()
    rng, made, begun = random.Random(1), 0, time.monotonic()
    while made < count and time.monotonic() - begun < seconds:
        fd, size = rng.choice(fds)
        os.pread(fd, 4096, rng.randrange(max(1, size - 4096)))
        made += 1
    print(made, time.monotonic() - begun)


if __name__ == "__main__":
    assert sys.argv[1] == "iops"
    _iops(*sys.argv[2:4])
