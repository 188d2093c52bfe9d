"""What the folder promises as a whole: its metadata, who may import whom, and the size of a file."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pytest
from PIL import Image

from package_check import PACKED, VALIDATED, complaints, content_problems, import_problems
from shipped import MAX_UPLOAD_BYTES, ROOT, is_ignored, shipped_files, source_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it on 3.10

# Folder of the pack → folders whose modules it may import, besides itself. The root's modules (errors,
# files, limits) know nothing of the rest and may be imported by all.
MAY_IMPORT = {
    "nodes": {"host", "models", "search", "engine", "kernels", "schedules", "tiny"},
    "host": {"models", "search", "engine", "kernels", "schedules", "tiny"},
    "models": {"engine", "kernels", "schedules"},
    "search": {"engine", "schedules"},
    "engine": {"kernels", "schedules"},
    "kernels": set(),
    "schedules": set(),
    "tiny": set(),
}
ROOT_MAY_IMPORT = {"__init__": {"nodes"}}
# Folders and files inside of a folder, from the bottom up: imports run downwards there, too.
INNER_LAYERS = {
    "engine": (
        "blocks",
        "sampler",
        "estimators",
        "correction",
        "state",
        "planning",
        "report",
        "sparse",
        "calls",
        "run",
    ),
    "search": ("problem", "evaluation", "ranking", "proposals", "methods", "driver"),
    "host": ("folders", "latents", "sampling", "raylight", "search"),
}

COMFY = re.compile(
    r"(comfy(_\w+)?|app|execution|folder_paths|latent_preview|node_helpers|nodes|protocol|server|utils)(\.|$)"
)
# Outside the layers, because run by path: the demonstration, which drives the engine as the host does elsewhere, and
# the command lines, which load the pack.
SCRIPTS = {PurePosixPath(path) for path in ("search/__main__.py", "kernels/__main__.py")}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ATTRIBUTES = 350, 60, 12
# Docstrings open with a verb or a noun.
NOUN_CLAUSE = re.compile(r"(What|How|Whether|By how much|Where|Which)\b")


@dataclass(frozen=True)
class Import:
    """One imported module: `level` leading dots and the dotted name behind them."""

    file: PurePosixPath
    line: int
    level: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {'.' * self.level}{self.name}"

    @property
    def target(self) -> str:
        """For a relative import: the dotted path of the module from the pack's root."""
        above = self.file.parts[: len(self.file.parts) - self.level]
        return ".".join((*above, *filter(None, [self.name])))


def imports_of(file: PurePosixPath) -> list[Import]:
    """All imports of a file, those inside functions and behind TYPE_CHECKING included."""
    found = []
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"), str(file))):
        if isinstance(node, ast.Import):
            found += [Import(file, node.lineno, 0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is None:
            # `from . import a`: a may be a module.
            found += [Import(file, node.lineno, node.level, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(Import(file, node.lineno, node.level, node.module or ""))
    return found


PACK = [path for path in shipped_files() if path.suffix == ".py" and path not in SCRIPTS]
IMPORTS = [each for file in PACK for each in imports_of(file)]
OWN_NAMES = {path.parts[0].removesuffix(".py") for path in PACK} | {"astraea"}


def folder_of(file: PurePosixPath) -> str:
    """The top folder of a file of the pack, "" for the root's own."""
    return file.parts[0] if len(file.parts) > 1 else ""


def may_import(each: Import) -> bool:
    """Whether the layers allow this relative import."""
    own, target = folder_of(each.file), each.target.split(".")[0]
    if target == own or target not in MAY_IMPORT:
        return True
    return target in (MAY_IMPORT[own] if own else ROOT_MAY_IMPORT.get(each.file.stem, set()))


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_nothing_is_installed_with_the_pack(project: dict) -> None:
    assert project["project"]["dependencies"] == []
    assert not (ROOT / "requirements.txt").exists()
    assert not (ROOT / "install.py").exists()


def test_registry_metadata_is_complete(project: dict) -> None:
    assert "comfyui" not in project["project"]["name"].lower()
    assert {"Repository", "Documentation", "Bug Tracker"} <= set(project["project"]["urls"])
    assert {"PublisherId", "DisplayName", "requires-comfyui"} <= set(project["tool"]["comfy"])


@pytest.mark.parametrize(("key", "size"), [("Icon", (400, 400)), ("Banner", (1260, 540))])
def test_pictures_of_the_registry_page_are_in_the_repository(project: dict, key: str, size: tuple[int, int]) -> None:
    repository = project["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    base = f"https://raw.githubusercontent.com/{repository}/main/"
    address = project["tool"]["comfy"][key]
    assert address.startswith(base)
    file = ROOT / address.removeprefix(base)
    with Image.open(file) as picture:
        assert (picture.format, picture.size) == ("PNG", size)
    assert file.stat().st_size < 300_000  # a page shows many


def test_publishing_happens_in_the_upstream_repository_alone(project: dict) -> None:
    workflow = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    repository = project["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    assert f"if: github.repository == '{repository}'\n" in workflow


def test_changelog_starts_with_the_version_of_pyproject(project: dict) -> None:
    newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == project["project"]["version"]


def test_upload_has_what_a_user_needs_and_nothing_else() -> None:
    shipped = {str(path) for path in shipped_files()}
    tops = {path.split("/")[0] for path in shipped}
    assert {"__init__.py", "LICENSE", "README.md", "pyproject.toml"} <= shipped
    assert {"tiny", "web", "workflows"} <= tops
    assert {path for path in shipped if path.startswith("locales/")} == {
        f"locales/{language}/nodeDefs.json" for language in ("en", "ja", "zh")
    }
    assert any(path.startswith("tiny/") and path.endswith(".safetensors") for path in shipped)  # the demo's weights
    assert not tops & {"tests", "benchmarks", "docs", "dev.py", ".ci", ".github", ".git", ".venv"}


def test_ignore_patterns_are_read_as_git_reads_them() -> None:
    patterns = ["dev.py", "tiny/*.bin", "/docs"]
    ignored = ["dev.py", "a/dev.py", "tiny/a.bin", "docs"]
    kept = ["tiny/model/a.bin", "a/tiny/a.bin", "web/docs", "a.bin"]
    assert [path for path in ignored + kept if is_ignored(PurePosixPath(path), patterns)] == ignored


def test_upload_is_small() -> None:
    assert sum((ROOT / path).stat().st_size for path in shipped_files()) < MAX_UPLOAD_BYTES


def test_package_check_reads_the_output_of_a_command_that_only_warns() -> None:
    assert (
        complaints(f"Validating node configuration...\nRunning security checks...\n{VALIDATED}\n", 0, VALIDATED) == []
    )
    warned = complaints(f"Warning: Invalid classifier\n{VALIDATED}\n", 0, VALIDATED)
    assert warned == ["Warning: Invalid classifier"]
    assert complaints("Security warnings found:\n", 0, VALIDATED)[0] == "Security warnings found:"
    assert complaints(f"{PACKED}\n", 1, PACKED) == ["it ended with status 1"]


def test_package_check_compares_the_upload_with_the_shipped_files() -> None:
    assert content_problems(["a.py", "b.py"], {"b.py", "a.py"}) == []
    problems = content_problems(["a.py", "a.py", "c.py"], {"a.py", "b.py"})
    assert problems == ["packed but not shipped: c.py", "shipped but not packed: b.py", "a file is packed twice"]


def test_package_check_finds_imports_of_files_that_are_not_packed() -> None:
    packed = {
        "__init__.py": "from . import engine\nfrom .tools import a",
        "engine/__init__.py": "from .run import Run\nSTEPS = 3",
        "engine/run.py": "from . import STEPS\nfrom ..files import b\nimport torch, json, comfy.samplers",
        "engine/gone.py": "from . import gone, lost\nimport requests.api\nfrom tests import kit",
    }
    assert import_problems(packed) == [
        "__init__.py:2 imports .tools, which is not packed",
        "engine/run.py:2 imports ..files, which is not packed",
        "engine/gone.py:1 imports .lost, which is not packed",
        "engine/gone.py:2 imports requests.api, which is not packed",
        "engine/gone.py:3 imports tests, which is not packed",
    ]


def test_every_folder_of_the_pack_has_a_layer() -> None:
    assert {folder_of(file) for file in PACK} <= {"", *MAY_IMPORT}


def test_only_host_imports_comfyui() -> None:
    def allowed(each: Import) -> bool:
        folder = folder_of(each.file)
        return folder == "host" or (folder == "nodes" and each.name.split(".")[0] == "comfy_api")

    assert [str(each) for each in IMPORTS if each.level == 0 and COMFY.match(each.name) and not allowed(each)] == []


def test_imports_inside_the_pack_are_relative() -> None:
    absolute = [each for each in IMPORTS if each.level == 0 and not COMFY.match(each.name)]
    assert [str(each) for each in absolute if each.name.split(".")[0] in OWN_NAMES] == []


def test_imports_run_one_way() -> None:
    assert [str(each) for each in IMPORTS if each.level and not may_import(each)] == []


def inner_layer(folder: str, path: Sequence[str]) -> int | None:
    """The layer of a file or module inside a folder of the pack, None outside of it and for one without a layer."""
    if path[0] != folder or len(path) < 2 or path[1] not in INNER_LAYERS[folder]:
        return None
    return INNER_LAYERS[folder].index(path[1])


@pytest.mark.parametrize("folder", INNER_LAYERS)
def test_imports_inside_a_folder_run_downwards(folder: str) -> None:
    upwards = []
    for each in IMPORTS:
        own = inner_layer(folder, each.file.with_suffix("").parts)
        target = inner_layer(folder, each.target.split(".")) if each.level else None
        if own is not None and target is not None and target > own:
            upwards.append(str(each))
    assert upwards == []


@pytest.mark.parametrize("folder", INNER_LAYERS)
def test_every_folder_inside_has_a_layer(folder: str) -> None:
    inside = {path.parts[1] for path in PACK if path.parts[0] == folder and len(path.parts) > 2}
    assert inside <= set(INNER_LAYERS[folder])


def test_no_relative_import_leaves_the_pack() -> None:
    assert [str(each) for each in IMPORTS if each.level > len(each.file.parts)] == []


def test_files_stay_readable() -> None:
    lengths = {
        str(path): len((ROOT / path).read_text("utf-8").splitlines()) for path in source_files() if path.suffix == ".py"
    }
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def definitions(kind: type | tuple[type, ...]) -> Iterator[tuple[str, Any]]:
    """All definitions of a kind in the shipped code, each with its place."""
    for file in (path for path in shipped_files() if path.suffix == ".py"):
        for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"), str(file))):
            if isinstance(node, kind):
                yield f"{file}: {getattr(node, 'name', 'module')}", node


def test_functions_fit_a_screen() -> None:
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node in definitions(ast.FunctionDef)}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def attributes_of(node: ast.ClassDef) -> set[str]:
    """The attributes that a class sets on itself."""
    targets = (each for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store))
    return {each.attr for each in targets if isinstance(each.value, ast.Name) and each.value.id == "self"}


def test_classes_keep_few_attributes() -> None:
    counts = {name: len(attributes_of(node)) for name, node in definitions(ast.ClassDef)}
    assert {name: count for name, count in counts.items() if count > MAX_ATTRIBUTES} == {}


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [(name, ast.get_docstring(node) or "") for name, node in definitions(kinds)]
    assert [f"{name}: {text.splitlines()[0]}" for name, text in found if NOUN_CLAUSE.match(text)] == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    text_files = [
        path for path in source_files() if path.suffix in {".py", ".md", ".toml", ".json", ".ini", ".yml", ".txt"}
    ]
    home = re.compile(r"""(?<![\w.~}])(/root/|/home/\w|/Users/\w|/[w]ork/|[A-Z]:\\\\?Users)""")
    found = {str(path): home.findall((ROOT / path).read_text("utf-8")) for path in text_files}
    assert {
        path: matches for path, matches in found.items() if matches and path != "tests/unit/test_packaging.py"
    } == {}
