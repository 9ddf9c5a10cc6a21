"""What all comparisons share: engines in processes of their own, ratios of pairs, the machine, results kept by date."""
import datetime, json, os, platform, statistics, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = Path(os.environ.get("DREAMSEED_HOME", Path.home() / ".cache/dreamseed"))
BINARY = ROOT / "target/release/dreamseed"


class Failed(Exception):
    """An engine that did not give a result, with the end of what it said."""


def run(command, **options):
    """The last line of what a command prints, as JSON."""
    command = [str(c) for c in command]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}: {' | '.join(done.stderr.strip().splitlines()[-3:])}")
    return json.loads(lines[-1])


def dreamseed(*args, binary=BINARY, **options):
    if not Path(binary).exists():
        sys.exit(f"{binary} is not there; `cargo build --release` makes it")
    return run([binary, *args], **options)


def load():
    """The system's load over the last minute."""
    return round(os.getloadavg()[0], 2)


def machine(threads):
    name = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return {"cpu": name, "cores": cores, "memory_gib": memory, "system": platform.platform(), "threads": threads, "load_before": load()}


def head(threads):
    """The beginning of every stored result."""
    git = lambda *args: subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True).stdout.strip()
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    commit = git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    return {"date": now, "machine": machine(threads), "commit": commit}


def store(result, topic, folder=ROOT / "benches/runs", device=None):
    """Writes a result (again after each step, so that a failure loses nothing) by date and device, else processor; returns its path."""
    result["machine"]["load_after"] = load()
    name = "-".join((device or result["machine"]["cpu"]).lower().split()) or "unknown"
    path = Path(folder) / f"{result['date'][:10]}-{name}-{topic}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.rename(path)
    return path


def spread(values):
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
