"""The measurements as Markdown: a line about the machine, the tables, and what was limited."""
import os
import pathlib
import statistics

TABLES = (("From nothing", ("first", "last", "find", "ls", "rss")),
          ("After that", ("warm", "read", "again", "iops", "ls -l")))
HEADS = {"first": "first file, s", "last": "file of the last layer, s", "find": "find, s", "ls": "list 10 000 tags, s",
         "rss": "peak memory, MiB", "warm": "find again, s", "read": "read all files, s", "again": "read all again, s",
         "iops": "4 KiB random reads /s", "ls -l": "ls -l of the tags, s"}


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


def markdown(bench, versions):
    """The whole report; bench has tools (names), figures, over, runs and notes."""
    lines = [machine(bench.runs, versions), "", "Median (least-greatest) ×ratio: how much better registryfs is, below 1: worse."]
    own = {f: statistics.median(v) for f, v in bench.figures["registryfs"].items()}
    for title, figures in TABLES:
        figures = [f for f in figures if any(f in bench.figures.get(t, {}) for t in bench.tools)]
        if not figures:
            continue
        lines += ["", " | ".join(["", title, *(HEADS[f] for f in figures), ""]).strip(), "|---" * (len(figures) + 1) + "|"]
        for tool in bench.tools:
            base = {} if tool == "registryfs" else own
            have = bench.figures.get(tool, {})
            cells = [cell(f, have.get(f), bench.over.get((tool, f)), base.get(f), bench.runs) for f in figures]
            if any(c != "-" for c in cells):
                lines.append(f"| {tool} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Limited: " + "; ".join(bench.notes) + "."])
