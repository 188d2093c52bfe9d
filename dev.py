"""The developer's two commands; each does its own set-up in `.venv`. Standard library only.

python dev.py demo [arguments of tiny/demo.py]
python dev.py test [--tier unit|kernels|host|graph|browser ...] [--no-lint] [-- arguments of pytest]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TESTS = ROOT / "tests"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = TESTS / "requirements.txt"
# pytest for the hosts' own Pythons lies here and not in their environments. exceptiongroup and tomli are for
# hosts on Python 3.10: pip would leave them out when .venv is newer.
HOST_PYTEST = VENV / "host-pytest"
HOST_PYTEST_PACKAGES = ("pytest", "exceptiongroup", "tomli", "typing_extensions")
# The kernels are compiled with the newest Triton, which .venv holds, and with the oldest one supported.
OLDEST_TRITON = "3.6.0"
OLDEST_TRITON_FOLDER = VENV / f"triton-{OLDEST_TRITON}"
# The registry's own command line checks and packs the upload. Its many dependencies stay out of .venv itself.
COMFY_CLI = VENV / "comfy-cli"
COMFY_CLI_PACKAGE = "comfy-cli==1.23.0"

if sys.version_info < (3, 10):  # noqa: UP036 - the message is for those who have less
    sys.exit("Astraea needs Python 3.10 or newer, this is " + platform.python_version())

sys.path.insert(0, str(TESTS))
from console import Output, Row, call, call_under, heading, print_notices, print_summary  # noqa: E402
from hosts import HOST_VARIABLE, HOW_TO, OLDEST_EDITOR, Host, find_browser, find_hosts, unusable  # noqa: E402
from shipped import copy_shipped  # noqa: E402

TIERS = ("unit", "kernels", "host", "graph", "browser")
CORES = min(4, os.cpu_count() or 1)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "ASTRAEA_TEST_THREADS")
NO_TEST = 5  # pytest's exit status when it collected nothing


Job = Callable[[], Row]


# --- set-up -----------------------------------------------------------------------------------------------------


def pip_install(*arguments: str) -> bool:
    """Installs with the pip of `.venv`; says whether it worked."""
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    return call([VENV_PYTHON, "-m", "pip", "install", *quiet, "--disable-pip-version-check", *arguments]) == 0


def stamped(stamp: Path, content: str) -> bool:
    """Tell whether a set-up step with this content was completed before."""
    return stamp.is_file() and stamp.read_text("utf-8") == content


def prepare_venv() -> None:
    """Makes `.venv` hold what tests/requirements.txt lists, and Triton where it exists."""
    stamp = VENV / "astraea-requirements"
    content = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    runs = VENV_PYTHON.exists() and call([VENV_PYTHON, "-c", ""]) == 0
    if runs and stamped(stamp, content):
        return
    heading("setting up .venv (torch is large: this takes a while, once)")
    if not runs and call([sys.executable, "-m", "venv", "--clear", VENV]) != 0:
        sys.exit("Could not create .venv. On Debian and Ubuntu: install the package python3-venv.")
    if not pip_install("-r", str(REQUIREMENTS)):
        sys.exit("pip could not install tests/requirements.txt into .venv: see its message above.")
    # Without its dependencies, Triton works with any torch build, the CPU one included.
    if has_triton_builds():
        pip_install("--no-deps", "triton")
    stamp.write_text(content, "utf-8")


def has_triton_builds() -> bool:
    """Tell whether Triton is published for this machine."""
    return platform.system() == "Linux" and platform.machine() == "x86_64"


def prepare_folder(folder: Path, what: str, *packages: str) -> bool:
    """Installs packages into a folder of their own, next to those of `.venv`; says whether they are there."""
    stamp = folder / "astraea-requirements"
    content = " ".join(packages)
    if stamped(stamp, content):
        return True
    heading(f"setting up {what}")
    if not pip_install("--upgrade", "--target", str(folder), *packages):
        return False
    stamp.write_text(content, "utf-8")
    return True


def prepare_oldest_triton() -> bool:
    """Puts the oldest supported Triton into a folder of its own; says whether it is there."""
    package = f"triton=={OLDEST_TRITON}"
    return has_triton_builds() and prepare_folder(OLDEST_TRITON_FOLDER, package, "--no-deps", package)


def prepare_host_pytest() -> None:
    """Puts a pytest for the hosts' Pythons into a folder of its own."""
    if not prepare_folder(HOST_PYTEST, "pytest for the ComfyUI tiers", *HOST_PYTEST_PACKAGES):
        sys.exit("pip could not install pytest for the host and graph tiers: see its message above.")


def usable_hosts(notices: list[str]) -> list[Host]:
    """The ComfyUI installations that can run; the others go into `notices`."""
    try:
        found = [(host, unusable(host)) for host in find_hosts()]
    except ValueError as error:
        sys.exit(str(error))
    bad = [f"ComfyUI {host.version} in {host.tree} is not used:\n{host.python}: {why}" for host, why in found if why]
    if bad and os.environ.get("COMFYUI_DIR"):
        sys.exit("\n".join(bad))
    notices += bad
    return [host for host, why in found if why is None]


# --- demo -------------------------------------------------------------------------------------------------------


def demo(arguments: list[str]) -> int:
    """Runs the demo inside a real ComfyUI if there is one, else with torch alone."""
    notices: list[str] = []
    hosts = usable_hosts(notices)
    print_notices(notices)
    script = ROOT / "tiny" / "demo.py"
    if hosts:
        print(f"Using ComfyUI {hosts[0].version} in {hosts[0].tree}")
        return call([hosts[0].python, script, "--comfyui", hosts[0].tree, *arguments])
    prepare_venv()
    return call([VENV_PYTHON, script, *arguments])


# --- test -------------------------------------------------------------------------------------------------------


def lint_jobs(notices: list[str]) -> Iterator[Job]:
    """ruff on the whole folder, mypy, and the upload to the registry."""
    yield lambda: check("ruff check", ["ruff", "check", "."], ROOT)
    yield lambda: check("ruff format", ["ruff", "format", "--check", "."], ROOT)
    yield types
    yield lambda: package(notices)


def types() -> Row:
    """mypy on a copy of the shipped code under an importable name."""
    with tempfile.TemporaryDirectory() as folder:
        copy_shipped(Path(folder) / "astraea", ROOT, suffix=".py")
        options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
        return check("mypy", ["mypy", *options, "-p", "astraea"], Path(folder))


def package(notices: list[str]) -> Row:
    """The upload, checked and packed by the registry's own command."""
    missing = ""
    if not (shutil.which("git") and (ROOT / ".git").exists()):
        missing = "no git repository"
    elif not prepare_folder(COMFY_CLI, "the command line of the Comfy registry", COMFY_CLI_PACKAGE):
        missing = "no comfy-cli"
    if not missing:
        return check("package", ["package_check", str(COMFY_CLI)], TESTS)
    notices.append(f"There is {missing}: the upload to the Comfy registry was NOT CHECKED.")
    return Row("package", skipped=1, note=missing)


def check(what: str, module_arguments: list[str], folder: Path) -> Row:
    """One checker as one row: it passes or fails as a whole."""
    start = time.monotonic()
    failed = call_under(what, [VENV_PYTHON, "-m", *module_arguments], cwd=folder) != 0
    return Row(what, passed=int(not failed), failed=int(failed), seconds=time.monotonic() - start)


def unit_tier(pytest_arguments: list[str]) -> Row:
    """Everything that needs torch alone."""
    return pytest_row(Row("unit"), VENV_PYTHON, [TESTS / "unit", *pytest_arguments])


def kernels_tier(pytest_arguments: list[str], notices: list[str]) -> Row:
    """One process per file: Triton decides at import whether it compiles or interprets."""
    total = Row("kernels")
    has_triton = call([VENV_PYTHON, "-c", "import triton"], stderr=subprocess.DEVNULL) == 0
    if not has_triton:
        notices.append(
            "Triton is not installed in .venv: the Triton kernels were NOT TESTED (the torch ones were).\n"
            "It exists for Linux on x86_64:  .venv/bin/python -m pip install --no-deps triton"
        )
    oldest = {"ASTRAEA_TRITON_OLDEST": str(OLDEST_TRITON_FOLDER)} if has_triton and prepare_oldest_triton() else {}
    if has_triton and not oldest:
        notices.append(f"Triton {OLDEST_TRITON} could not be installed: the kernels were compiled by the newest only.")
    for file in sorted((TESTS / "kernels").glob("test_*.py")):
        interpreted = file.name.startswith("test_interpreter_")
        if interpreted and not has_triton:
            total += Row("", skipped=1, note="no Triton")
            continue
        environment = {"TRITON_INTERPRET": "1"} if interpreted else oldest
        total += pytest_row(Row("kernels"), VENV_PYTHON, [file, *pytest_arguments], environment, label=file.name)
    return total


def host_tier(tier: str, host: Host, pytest_arguments: list[str]) -> Row:
    """The tier `host` (ComfyUI imported) or `graph` (ComfyUI's server), with the host's own Python."""
    environment = {
        HOST_VARIABLE: str(host.tree),
        "ASTRAEA_PYTEST_HOME": str(HOST_PYTEST),
        "PYTHONDONTWRITEBYTECODE": "1",  # the user's ComfyUI stays as it was
    }
    return pytest_row(Row(tier, host.version), host.python, [TESTS / tier, *pytest_arguments], environment)


def browser_tier(host: Host, pytest_arguments: list[str]) -> Row:
    """The tier `browser`: the editor of ComfyUI's server in a Chromium, driven by the Python of `.venv`."""
    row = Row("browser", host.version)
    if host.version_tuple < OLDEST_EDITOR:
        needed = ".".join(map(str, OLDEST_EDITOR))
        return replace(row, skipped=1, note=f"SKIPPED: it reads the editor of ComfyUI {needed} and newer")
    return pytest_row(row, VENV_PYTHON, [TESTS / "browser", *pytest_arguments], {HOST_VARIABLE: str(host.tree)})


def missing_for_browser() -> str | None:
    """The first thing that the tier `browser` lacks on this machine, or None."""
    if find_browser() is None:
        return "no Chromium on PATH or named by ASTRAEA_CHROMIUM"
    has_playwright = call([VENV_PYTHON, "-c", "import playwright"], stderr=subprocess.DEVNULL) == 0
    return None if has_playwright else "no playwright in .venv"


def pytest_row(row: Row, python: Path, arguments: Iterable, environment: dict | None = None, label: str = "") -> Row:
    """Runs pytest and adds what its JUnit file counts to `row`."""
    title = " ".join(filter(None, (row.what, row.host, label)))
    # Neither the caller's module path nor the interpreter switch of another run may change what is tested.
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TRITON_INTERPRET")}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        options = ["-c", TESTS / "pytest.ini", f"--rootdir={TESTS}", f"--junitxml={report}"]
        command = [python, TESTS / "run_pytest.py", *options, *arguments]
        status = call_under(title, command, env=clean | (environment or {}))
        counted = read_junit(report)
    seconds = time.monotonic() - start
    if status not in (0, NO_TEST) and counted.failed == 0:
        counted += Row("", failed=1, note=f"pytest ended with status {status}")
    return row + replace(counted, seconds=seconds)


def read_junit(report: Path) -> Row:
    """The counts of a JUnit file; none if pytest died before it wrote one."""
    if not report.is_file():
        return Row("")
    suites = list(ElementTree.parse(report).iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    return Row("", passed=total - failures - errors - skipped, failed=failures + errors, skipped=skipped)


def tier_jobs(tier: str, hosts: list[Host], pytest_arguments: list[str], notices: list[str]) -> Iterator[Job]:
    """Yield the jobs of one tier: one, or one for each host."""
    if tier == "unit":
        yield lambda: unit_tier(pytest_arguments)
    elif tier == "kernels":
        yield lambda: kernels_tier(pytest_arguments, notices)
    elif not hosts:
        yield lambda: Row(tier, skipped=1, note="SKIPPED: no ComfyUI")
    elif tier == "browser" and (missing := missing_for_browser()):
        notices.append(f"There is {missing}: the tier browser was SKIPPED, the editor was NOT TESTED.")
        yield lambda: Row(tier, skipped=1, note=f"SKIPPED: {missing}")
    else:
        # The newest has the most tests: begun last, it would keep one core waiting for another.
        newest_first = sorted(hosts, key=lambda host: host.version_tuple, reverse=True)
        run = browser_tier if tier == "browser" else partial(host_tier, tier)
        yield from (partial(run, host, pytest_arguments) for host in newest_first)


def run_jobs(jobs: list[Job]) -> list[Row]:
    """The rows in the order of the jobs. Several run at once, each on one core and printed when it is done:

    small tensors gain little from a second thread.
    """
    if len(jobs) < 2 or CORES < 2:
        return [job() for job in jobs]
    with ThreadPoolExecutor(CORES) as pool:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
        Output.collected = True
        return list(pool.map(lambda job: job(), jobs))


def test(arguments: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Runs the checks and the tiers, prints the summary, returns the exit status."""
    notices: list[str] = []
    tiers = [tier for tier in TIERS if tier in (arguments.tier or TIERS)]
    prepare_venv()
    hosts = []
    if {"host", "graph", "browser"} & set(tiers):
        hosts = usable_hosts(notices)
        if hosts:
            prepare_host_pytest()
        else:
            notices.append(f"No usable ComfyUI was found: the tiers host, graph and browser were SKIPPED.\n\n{HOW_TO}")
    rows: list[Row] = []
    jobs = [] if arguments.no_lint else list(lint_jobs(notices))
    for row in run_jobs([*jobs, *(job for tier in tiers for job in tier_jobs(tier, hosts, pytest_arguments, notices))]):
        # A selection by the caller may leave a tier empty; otherwise an empty tier is a broken one.
        empty = not (row.passed or row.failed or row.skipped or pytest_arguments)
        rows.append(replace(row, failed=1, note="no test was collected") if empty else row)
    print_notices(notices)
    return print_summary(rows)


def main(argv: list[str]) -> int:
    if argv[:1] == ["demo"]:
        return demo(argv[1:])
    dashes = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("demo", "test"))
    parser.add_argument("--tier", action="extend", nargs="+", choices=TIERS, help="only these tiers")
    parser.add_argument("--no-lint", action="store_true", help="leave out ruff, mypy and the upload")
    return test(parser.parse_args(argv[:dashes]), argv[dashes + 1 :])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
