"""Checks the upload as the Comfy registry's own command line makes it: python tests/package_check.py COMFY_CLI.

COMFY_CLI is a folder that comfy-cli is installed in; needs nothing else but git, and no network. That command works
on the files that git tracks where it is called: here in a copy of the working tree, in a repository of its own.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from shipped import MAX_UPLOAD_BYTES, ROOT, shipped_files

VALIDATED = "✓ All validation checks passed successfully"
PACKED = "Created zip file: node.zip"
# All that the command prints when there is nothing to complain of; it ends with status 0 even then if there is.
EXPECTED_LINES = {"Validating node configuration...", "Running security checks...", VALIDATED, PACKED}
# ComfyUI brings these, or is them; triton is used where it is found.
INSTALLED = {"PIL", "numpy", "safetensors", "torch", "triton"}
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview"}


def listed_files(root: Path) -> list[str]:
    """The files that git tracks or would track: new ones may be about to be committed."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode("utf-8")
    return sorted({name for name in listing.split("\0") if name and (root / name).is_file()})


def environment(comfy_cli: Path, home: Path) -> dict[str, str]:
    """The environment of the commands: no settings of the user are read or written, nothing is reported."""
    # Inside a git hook, these would lead from the copy to the repository itself.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return clean | {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONPATH": str(comfy_cli),
        "PYTHONUTF8": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COMFY_NO_TELEMETRY": "1",
        "COMFY_NO_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
        "COLUMNS": "1000",  # no line of the output is broken
    }


def copy_repository(root: Path, target: Path, variables: dict[str, str]) -> None:
    """Copies the listed files to `target` and makes git track them there."""
    for name in listed_files(root):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target / name)
    for arguments in (["init", "--quiet"], ["-c", "core.autocrlf=false", "add", "--all", "--force"]):
        subprocess.run(["git", *arguments], cwd=target, env=variables, check=True)


def run_comfy(arguments: list[str], folder: Path, variables: dict[str, str], last_line: str) -> list[str]:
    """Runs the registry's command in `folder`; returns its complaints."""
    # Without these options its first run asks whether it may report what is done with it.
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    print(done.stdout, flush=True)
    return complaints(done.stdout, done.returncode, last_line)


def complaints(output: str, status: int, last_line: str) -> list[str]:
    """The lines that should not be there, a missing last one, and a status other than 0."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    found = [line for line in lines if line not in EXPECTED_LINES]
    if last_line not in lines:
        found.append(f"it did not print '{last_line}'")
    if status:
        found.append(f"it ended with status {status}")
    return found


def ruff_is_missing(variables: dict[str, str]) -> list[str]:
    """A complaint if `validate` cannot look for unsafe code: it takes a ruff that does not start for a clean one."""
    command = [sys.executable, "-m", "ruff", "--version"]
    return ["its ruff does not run"] if subprocess.run(command, env=variables).returncode else []


def content_problems(names: list[str], shipped: set[str]) -> list[str]:
    """Differences between the packed files and those that tests/shipped.py lists."""
    packed = set(names)
    found = [f"packed but not shipped: {name}" for name in sorted(packed - shipped)]
    found += [f"shipped but not packed: {name}" for name in sorted(shipped - packed)]
    return found + ([] if len(packed) == len(names) else ["a file is packed twice"])


def size_problems(size: int) -> list[str]:
    """A complaint about an upload of too many bytes."""
    if size <= MAX_UPLOAD_BYTES:
        return []
    return [f"{size:,} bytes are more than the {MAX_UPLOAD_BYTES:,} of tests/shipped.py"]


def import_problems(sources: dict[str, str]) -> list[str]:
    """Imports that neither the packed files, by path, nor ComfyUI can answer."""
    modules = {module_of(PurePosixPath(path)) for path in sources}
    own = {module[0] for module in modules if len(module) == 1}
    answered = set(sys.stdlib_module_names) | INSTALLED | COMFYUI | own
    found = []
    for path, source in sources.items():
        for line, level, name, alias in imports_of(source):
            base = PurePosixPath(path).parts[:-level] if level else ()
            target = (*base, *filter(None, name.split(".")))
            if not level:
                known = target[0] in answered
            elif name:
                known = target in modules
            else:  # `from . import a`: a module, or a name in the package's own file
                own_file = sources.get("/".join((*target, "__init__.py")), "")
                known = (*target, alias) in modules or alias in names_in(own_file)
            if not known:
                found.append(f"{path}:{line} imports {'.' * level}{name or alias}, which is not packed")
    return found


def imports_of(source: str) -> Iterator[tuple[int, int, str, str]]:
    """Every import of a file: its line, leading dots, module and imported name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, node.level, node.module or "", alias.name) for alias in node.names)


def names_in(source: str) -> set[str]:
    """Every name that a file imports, defines or assigns."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def module_of(path: PurePosixPath) -> tuple[str, ...]:
    """The names of a module from the root of the pack; those of its folder for a package."""
    return path.parts[:-1] if path.name == "__init__.py" else path.with_suffix("").parts


def packed_problems(archive: Path) -> list[str]:
    """Everything wrong with an upload."""
    size = archive.stat().st_size
    with ZipFile(archive) as upload:
        names = upload.namelist()
        sources = {name: upload.read(name).decode("utf-8") for name in names if name.endswith(".py")}
    print(f"{len(names)} files, {size / 1e6:.2f} MB", flush=True)
    shipped = {str(path) for path in shipped_files()}
    return content_problems(names, shipped) + size_problems(size) + import_problems(sources)


def main(comfy_cli: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy, home = Path(folder) / "astraea", Path(folder) / "home"
        home.mkdir()
        copy.mkdir()
        variables = environment(comfy_cli, home)
        copy_repository(ROOT, copy, variables)
        problems = ruff_is_missing(variables) + run_comfy(["node", "validate"], copy, variables, VALIDATED)
        problems += run_comfy(["node", "pack"], copy, variables, PACKED)
        if (copy / "node.zip").is_file():
            problems += packed_problems(copy / "node.zip")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
