"""Everything that only a GPU can show, in order of worth, within a number of seconds.

Run `python benchmarks/gpu.py --seconds 420 --out FOLDER` on a machine with one GPU. Each part runs
in a process of its own with a share of the seconds. What a part does not use is left to the next
ones, and what it does not reach in time is cut. FOLDER/gpu.json has each figure as soon as it is
known, with the device, the commit and the versions; gpu.txt has the same as a table, and
profile.txt the kernels that took most of the time.

`--device cpu --seconds 200` rehearses all parts with tiny sizes. Its figures say nothing about a
GPU. `--only curves --data DATA --resume FOLDER` computes learning curves in pieces (see
`gpu_parts/curves.py`).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from select import select

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Modules that the parts use. Ray's workers, and factories of models, must find them too.
PATHS = [
    ROOT,
    HERE / "gpu_parts",
    *(HERE / name for name in ("engine", "pipeline", "experiments")),
    ROOT / "tests" / "support",
]

# The parts that run together, as they are not about speed or use little of the GPU, and the share
# of the seconds that they have. `curves` runs only on request.
PHASES = {
    ("right", "trained", "sixteen_bits"): 0.25,
    ("passes",): 0.3,
    ("fed",): 0.36,
    ("full",): 0.09,
    ("curves",): 0.0,
}
PARTS = [name for names in PHASES for name in names]


class Figures:
    """The figures known so far, on disk after each new one."""

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._about = {"device": device_name(device), "commit": commit(), "versions": versions()}
        self._entries = []
        self._begun = time.monotonic()

    def add(self, entry: dict) -> None:
        """Print a figure, and write it down with where it comes from."""
        after = round(time.monotonic() - self._begun, 1)
        self._entries.append({**entry, "after_seconds": after, **self._about})
        print(line(entry), flush=True)
        self._replace("gpu.json", json.dumps(self._entries, indent=1))
        self._replace("gpu.txt", "\n".join([*self._heading(), *map(line, self._entries)]) + "\n")

    def _heading(self) -> list[str]:
        libraries = ", ".join(
            f"{name} {number}" for name, number in self._about["versions"].items()
        )
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        device, commit = self._about["device"], self._about["commit"]
        return [f"{device}, {os.cpu_count()} cores, commit {commit}, {now}", libraries, ""]

    def _replace(self, name: str, text: str) -> None:
        draft = self._folder / f"{name}.tmp"
        draft.write_text(text)
        draft.replace(self._folder / name)


def line(entry: dict) -> str:
    """Return a figure as a line of a table."""
    value = entry["value"]
    shown = "-" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    verdict = {True: "reached", False: "NOT REACHED", None: ""}[entry["met"]]
    goal = f"goal {entry['goal']}: {verdict}" if entry["goal"] else ""
    row = f"{entry['part']:<13}{entry['name']:<66}{shown:>10} {entry['unit']:<16}{goal:<26}"
    return f"{row} {entry['note']}".rstrip()


def device_name(device: str) -> str:
    """Return the name of the GPU, without opening it: this process is forked for each part."""
    if device == "cpu":
        return "CPU (a rehearsal)"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "a GPU that nvidia-smi does not name"


def commit() -> str:
    """Return the commit if there is git, and a hash of the sources, which may differ from it."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    sources = b"".join(path.read_bytes() for path in sorted((ROOT / "baal_ray").rglob("*.py")))
    known = done.stdout.strip() if done.returncode == 0 else "unknown"
    return f"{known}, sha256 of baal_ray/**/*.py {sha256(sources).hexdigest()[:12]}"


def versions() -> dict[str, str]:
    """Return the versions that decide the figures."""
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "torchvision", "ray", "baal", "torchcodec"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def run_parts(
    names: list[str], options: argparse.Namespace, seconds: float, figures: Figures
) -> None:
    """Run parts, each in a process of its own, and end those that are not done in time."""
    from part import run

    end = time.monotonic() + seconds
    processes, unread = {}, {}
    for name in names:
        receive, send = os.pipe()
        process = get_context("fork").Process(target=run, args=(name, options, seconds, send))
        process.start()
        os.close(send)
        processes[receive], unread[receive] = (name, process), b""
    while unread and (ready := select([*unread], [], [], max(0, end - time.monotonic()))[0]):
        for receive in ready:
            more = os.read(receive, 1 << 16)
            *lines, rest = (unread.pop(receive) + more).split(b"\n")
            if more:  # else the part has ended
                unread[receive] = rest
            for each in lines:
                figures.add(json.loads(each))
    for receive, (name, process) in processes.items():
        os.close(receive)
        process.join(max(0, min(5, end - time.monotonic())))
        code = process.exitcode
        if code is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        if code != 0:
            fault = f"cut after {seconds:.0f} s" if code is None else f"ended with status {code}"
            entry = {"part": name, "name": fault, "value": None, "unit": "", "goal": ""}
            figures.add({**entry, "met": None, "note": "what it had not reported is not known"})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.txt")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts")
    parser.add_argument("--data", type=Path, help="for curves: the images")
    parser.add_argument("--resume", type=Path, help="for curves: the curves so far")
    parser.add_argument("--experiments", nargs="+", help="for curves: their names")
    return parser.parse_args()


def main() -> None:
    """Run the parts, one after another."""
    options = parse()
    end = time.monotonic() + options.seconds
    sys.path[:0] = [str(path) for path in PATHS]
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*map(str, PATHS), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    options.out = options.out.resolve()
    figures = Figures(options.out, options.device)
    import part  # noqa: F401  once, so that forked parts need not load torch, Ray and baal again

    wanted = options.only or [name for names, share in PHASES.items() if share for name in names]
    phases = [
        ([name for name in names if name in wanted], share or 1.0)
        for names, share in PHASES.items()
        if not set(names).isdisjoint(wanted)
    ]
    while phases:
        left = end - time.monotonic()
        names, share = phases[0]
        share /= sum(share for _, share in phases)
        run_parts(names, options, max(1.0, left * share), figures)
        phases.pop(0)


if __name__ == "__main__":
    main()
