"""The measurements as Markdown: a line about the machine, and of each section its tables and what was limited."""
import os
import pathlib
import statistics

import limits

PARTS = ("first", "last", "find", "all", "python")
TABLES = (("From nothing", ("first", "last", "find", "all", "python", "ls", "rss", "disk")),
          ("After that", ("warm", "again", "iops", "restart", "ls -l")),
          ("Moved: MiB / requests / connections", tuple(f"{p} moved" for p in PARTS)),
          ("Processor time of the daemon", tuple(f"{p} cpu" for p in PARTS)))
NAMES = {"first": "first file", "last": "file of the last layer", "find": "find", "all": "read all files", "python": "start of Python"}
HEADS = {"first": "first file, s", "last": "file of the last layer, s", "find": "find, s", "ls": "list 10 000 tags, s",
         "all": "read all files, s", "python": "start of Python, s", "rss": "peak memory, MiB", "disk": "on disk, MiB",
         "warm": "find again, s", "again": "read all again, s", "iops": "4 KiB random reads /s",
         "restart": "first file after a restart, s", "ls -l": "ls -l of the tags, s",
         **{f"{p} moved": n for p, n in NAMES.items()}, **{f"{p} cpu": f"{n}, s" for p, n in NAMES.items()}}
COUNTED = ("MiB", "requests", "connections")
NO_RATIO = ("disk", *(h for h in HEADS if h.endswith((" cpu", " moved"))))


def machine(runs, versions):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    release = {}
    for line in pathlib.Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip('"')
    kernel = ".".join(os.uname().release.split("-")[0].split(".")[:2])
    system = f"{release.get('PRETTY_NAME', 'Linux')}, kernel {kernel}"
    return (f"{os.cpu_count()} cores ({os.uname().machine}), {memory:.0f} GiB, {system}, registry on the same machine; "
            f"{runs} run{'s' if runs > 1 else ''}{'; ' * bool(versions)}{', '.join(versions)}.")


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def ratio(figure, value, own):
    """How many times better registryfs is (below 1: how much worse)."""
    x = own / value if figure == "iops" else value / own
    return f"×{x:.0f}" if x >= 10 else f"×{x:.1f}" if x >= 1 else f"×{x:.2f}"


def cell(figure, values, over, own, runs):
    if over is not None:
        return "-" if figure == "iops" else f"> {over:.0f}" + (f" ×>{over / own:.0f}" if own else "")
    if not values:
        return "-"
    text = number(statistics.median(values))
    if len(values) > 1:
        text += f" ({number(min(values))}-{number(max(values))})"
    if own:
        text += f" {ratio(figure, statistics.median(values), own)}"
    return text + (f" n={len(values)}" if len(values) < runs else "")


def moved(figures, part):
    values = [figures.get(f"{part} {what}") for what in COUNTED]
    if not all(values):
        return "-"
    mebibytes, *counts = map(statistics.median, values)
    return " / ".join([number(mebibytes) if mebibytes >= 0.1 else f"{mebibytes:.2f}", *(f"{c:.0f}" for c in counts)])


def table(title, figures, section):
    """The lines of one table, or none when nothing of it was measured."""
    rows = []
    for kind in section.kinds:
        have, base = (section.figures.get(n, {}) for n in (kind.name, kind.beside))
        base = {} if kind.name == kind.beside else {f: statistics.median(v) for f, v in base.items() if f not in NO_RATIO}
        rows.append((kind.name, [moved(have, f.split()[0]) if f.endswith(" moved") else
                                 cell(f, have.get(f), section.over.get((kind.name, f)), base.get(f), section.runs) for f in figures]))
    used = [i for i in range(len(figures)) if any(cells[i] != "-" for _, cells in rows)]
    if not used:
        return []
    lines = ["", " | ".join(["", title, *(HEADS[figures[i]] for i in used), ""]).strip(), "|---" * (len(used) + 1) + "|"]
    return lines + [f"| {name} | " + " | ".join(cells[i] for i in used) + " |"
                    for name, cells in rows if any(cells[i] != "-" for i in used)]


def aims(section):
    rows = limits.aims(section)
    if not rows:
        return []
    return ["", "| Aim of registryfs | at most | measured | ratio | |", "|---" * 5 + "|",
            *(f"| {what}: {words} | {number(aim)} | {number(value)} | {value / aim:.2f} | {'reached' if value <= aim else 'not reached'} |"
              for what, aim, value, words in rows)]


def markdown(section):
    lines = [f"## {section.title}"]
    for title, figures in TABLES:
        lines += table(title, figures, section)
    return "\n".join([*lines, *aims(section), "", "Limited: " + "; ".join(section.notes) + "."])
