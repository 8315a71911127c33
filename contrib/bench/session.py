"""One section of the benchmark: one image on one registry, tools side by side, every run from nothing.

A tool is opened, then its parts are measured as rows; each row has a limit of time, each tool a budget over all runs. What
the registry's log says is counted per part: body bytes, requests, connections.
"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import peers
import proc
from lib import treecmp

FILES = {"first": peers.FIRST, "last": peers.LAST}
# the rows of a part that takes more than one
ROWS = {"find": ("find", "warm"), "all": ("all", "again", "iops", "restart")}
ANSWER = re.compile(rb'msg="response completed.*http\.request\.remoteaddr="([^"]*)".*http\.response\.written=(\d+)')


@contextlib.contextmanager
def scratch_dir():
    path = tempfile.mkdtemp(prefix="registryfs-bench.")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Section:
    """options: program, runs, limit, budget (as in bench.py). kinds: classes of peers.py, the first one is ours."""

    def __init__(self, title, options, kinds, notes=()):
        self.title, self.kinds = title, kinds
        self.program = pathlib.Path(options.program).resolve()
        self.runs, self.limit, self.budget = options.runs, options.limit, options.budget
        self.figures, self.over, self.failed = {}, {}, set()
        self.spent, self.next_run, self.spent_out = {}, {}, set()
        self.notes = [f"a row to {self.limit:.0f} s, a tool to {self.budget:.0f} s over all runs", *notes]

    def remark(self, text):
        if text not in self.notes:
            self.notes.append(text)
            print(text, file=sys.stderr)

    def note(self, tool, figure, value):
        self.figures.setdefault(tool.name, {}).setdefault(figure, []).append(value)

    def deadline(self):
        return time.monotonic() + self.limit

    def row(self, tool, figure, function, *args, before=0.0):
        """Measures one row that took `before` already; None if it takes too long, now or in an earlier run."""
        if (tool.name, figure) in self.over:
            return None
        start = time.monotonic()
        try:
            result = function(*args, start + self.limit - before)
        except proc.TooLong:
            self.over[tool.name, figure] = self.limit
            return None
        self.note(tool, figure, result if figure == "iops" else before + time.monotonic() - start)
        return result

    # ---- one image

    def reference(self, layout, tree):
        """What umoci makes of the image is what all are compared with."""
        root = pathlib.Path(treecmp.umoci_unpack(layout, "1.0", tree))
        self.tree = next(p.parent.parent.parent for p in root.glob(f"**/{peers.FIRST}"))
        self.expected = {what: (self.tree / path).read_bytes() for what, path in FILES.items()}
        self.entries = proc.walk(self.tree, self.deadline())
        found = [os.path.join(d, f) for d, _, names in os.walk(self.tree) for f in names]
        found = sorted((p for p in found if os.path.isfile(p) and not os.path.islink(p)), key=lambda p: (-os.lstat(p).st_size, p))
        self.largest, self.names = pathlib.Path(f"{tree}.largest"), pathlib.Path(f"{tree}.names")
        relative = [os.path.relpath(p, self.tree) for p in found]
        # hard links left out: not every peer can read them
        self.largest.write_text("\0".join([r for r, p in zip(relative, found) if os.lstat(p).st_nlink == 1][:20]))
        self.names.write_text("".join(f"{p}\0" for p in sorted(relative)))

    def image(self, registry, layouts, plain, parts):
        """layouts: tag -> layout; plain: the layout that umoci unpacks."""
        self.registry, self.host, self.layouts = registry, registry.host, layouts
        for tag, layout in layouts.items():
            treecmp.push_layout(layout, registry.url, "app", tag, "1.0", "--all")
        with scratch_dir() as scratch:
            self.reference(plain, f"{scratch}/tree")
            for number in range(self.runs):
                for kind in self.kinds:
                    if kind.ours or self.affordable(kind, number):
                        self.measure(kind, parts)

    def manifest(self, tag):
        layout = self.layouts[tag]
        digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())

    def one(self, tool, root, part, opened):
        if part == "find":
            self.find(tool, root, opened)
        elif part == "all":
            self.all(tool, root, opened)
        elif part == "python":
            self.python(tool, root, opened)
        else:
            read = (lambda deadline: tool.read_one(part)) if root is None else lambda deadline: proc.cat(root / FILES[part], deadline)
            data = self.row(tool, part, read, before=opened)
            if data not in (None, self.expected[part]):
                raise proc.Failed(f"{FILES[part]}: wrong bytes")

    def find(self, tool, root, opened):
        entries = self.row(tool, "find", proc.walk, root, before=opened)
        if entries is not None:
            self.row(tool, "warm", proc.walk, root)
            if entries != self.entries:
                self.remark(f"{tool.name} shows {entries} entries where the image has {self.entries}")

    def all(self, tool, root, opened):
        unread = self.row(tool, "all", proc.read_all, root, self.names, before=opened)
        if unread is not None:
            self.row(tool, "again", proc.read_all, root, self.names)
            if unread:
                self.remark(f"{tool.name} could not read {unread} of the files")
        self.row(tool, "iops", proc.iops, root, self.largest)
        if tool.rss() is not None:
            self.note(tool, "rss", tool.rss())
            if tool.rss() <= proc.own_peak():
                self.remark(f"{tool.name} takes at most the memory printed, which is that of the benchmark before exec")
        if unread is not None and tool.can_restart:
            if tool.stored():
                self.note(tool, "disk", proc.disk_use(*tool.stored()))
            tool.stop()
            start = time.monotonic()
            tool.deadline = start + self.limit
            root = tool.open()
            self.row(tool, "restart", proc.cat, root / FILES["first"], before=time.monotonic() - start)

    def python(self, tool, root, opened):
        try:
            said = self.row(tool, "python", proc.python, root, before=opened)
        except proc.Failed as e:
            if tool.ours:
                raise
            self.over[tool.name, "python"] = None
            self.remark(f"Python does not start in what {tool.name} shows ({self.public(e)})")
            return
        if said not in (None, b"ok\n"):
            raise proc.Failed(f"Python said {said!r}")

    def session(self, kind, parts):
        """One start from nothing, then the parts."""
        with scratch_dir() as scratch:
            tool = kind(self, scratch)
            proc.drop_caches()
            mark = self.log_size()
            try:
                start = time.monotonic()
                tool.deadline = start + self.limit
                try:
                    root = tool.open()
                except proc.TooLong:
                    for part in parts:
                        self.over.update({(kind.name, f): self.limit for f in ROWS.get(part, (part,))})
                    return
                opened = time.monotonic() - start
                for part in parts:
                    self.one(tool, root, part, opened)
                    cpu = tool.cpu()
                    if cpu is not None and part != "all":
                        self.note(tool, f"{part} cpu", cpu)
                if kind.tag != "1.0" and tool.streams():
                    self.remark(f"{kind.name} read whole layers")
            finally:
                tool.close()
            self.traffic(tool, parts, mark)

    # ---- what the registry saw

    def log_size(self):
        return (self.registry.dir / "log").stat().st_size

    def traffic(self, tool, parts, mark):
        """To the first part; to all parts when one fetch serves all."""
        if not tool.counted:
            return
        size = -1
        while size != self.log_size():      # a cancelled answer is logged when the server notices
            size = self.log_size()
            time.sleep(0.05)
        with open(self.registry.dir / "log", "rb") as log:
            log.seek(mark)
            answers = [(m[1], int(m[2])) for line in log if (m := ANSWER.search(line))]
        for part in parts:
            self.note(tool, f"{part} MiB", sum(size for _, size in answers) / 2**20)
            self.note(tool, f"{part} requests", len(answers))
            self.note(tool, f"{part} connections", len({client for client, _ in answers}))

    # ---- whose turn it is

    def measure(self, kind, parts):
        """A peer that fails is reported and measured no further; we ourselves must not fail."""
        wanted = [p for p in kind.parts if p in parts and not all((kind.name, f) in self.over for f in ROWS.get(p, (p,))[:1])]
        begun, over = time.monotonic(), len(self.over)
        for these in [[p] for p in wanted] if kind.lazy else [wanted]:
            if not these or kind.name in self.failed:
                continue
            print(f"{self.title}: {kind.name}: {', '.join(these)}", file=sys.stderr)
            try:
                self.session(kind, these)
            except (proc.Failed, OSError, subprocess.SubprocessError) as e:
                if kind.ours:
                    raise
                self.failed.add(kind.name)
                self.remark(f"{kind.name} failed ({self.public(e)})")
        took = time.monotonic() - begun
        self.spent[kind.name] = self.spent.get(kind.name, 0) + took
        self.next_run[kind.name] = max(0, took - self.limit * (len(self.over) - over))

    @staticmethod
    def public(error):
        """A message without this machine's paths."""
        words = (os.path.basename(w.strip("'\"`,:")) if "/" in w else w for w in str(error).split())
        return " ".join(words)[:160]

    def affordable(self, kind, number):
        """Whether one more run like the last one, less the rows that are given up, stays within the budget."""
        if kind.name in self.failed or kind.name in self.spent_out:
            return False
        if number and self.spent[kind.name] + self.next_run[kind.name] > self.budget:
            self.spent_out.add(kind.name)
            self.remark(f"{kind.name} has {number} of {self.runs} runs")
            return False
        return True
