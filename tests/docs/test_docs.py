"""README and docs: code blocks are run and counted, links lead somewhere, and every public name is in the reference."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import landform as lf
from landform import errors
from landform.cli import main
from landform.losses import LOSS_NAMES
from landform.pattern.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNNING = {
    "README.md": 4,
    "docs/tutorial.md": 10,
    "docs/choose.md": 3,
    "docs/how-it-works.md": 1,
    "docs/reference.md": 1,
    "docs/measure.md": 6,
    "docs/coming-from.md": 1,
    "docs/directions.md": 6,
    "docs/tasks.md": 8,
    "docs/cluster.md": 3,
    "docs/phantoms.md": 2,
    "docs/networks.md": 13,
    "docs/theorem2.md": 4,
    "docs/statistics.md": 1,
}
"""Pages with code that runs, and how many blocks at least."""
IMAGES = sorted((ROOT / "docs" / "images").iterdir())


def fences(page: Path, *, language: str = "python") -> list[str]:
    """Return the info strings of all code fences in a language."""
    return [line for line in re.findall(r"^```(\w.*)$", page.read_text(), re.MULTILINE) if line.split()[0] == language]


def without_code(page: Path) -> str:
    """Return a page's text without its code fences."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that headings make, as code hosts do."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


def test_every_python_block_is_collected() -> None:
    command = [sys.executable, "-m", "pytest", "--markdown-docs", "--collect-only", "-q", "-p", "no:cacheprovider"]
    pages = [str(ROOT / name) for name in RUNNING]
    done = subprocess.run([*command, *pages], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, least in RUNNING.items():
        collected = len(re.findall(rf"^{re.escape(name)}::", done.stdout, re.MULTILINE))
        blocks = fences(ROOT / name)
        assert collected == len(blocks) >= least, (name, collected, blocks)
        assert not any("notest" in block.split() for block in blocks), name


def test_blocks_that_continue_a_block_in_a_folder_of_its_own_run_in_one_too() -> None:
    """A continued block runs those before it again, files and all."""
    for name in RUNNING:
        inside = False
        for block in fences(ROOT / name):
            marks = block.split()
            inside = "fixture:elsewhere" in marks or (inside and "continuation" in marks)
            assert "fixture:elsewhere" in marks or not inside, f"{name}: {block}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = without_code(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}; there are {sorted(anchors(file))}"


def test_every_page_of_the_docs_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", (ROOT / "README.md").read_text()))
    linked |= {f"docs/{name}" for name in re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs/reference.md").read_text())}
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.name)
def test_images_open_are_small_and_are_used(file: Path) -> None:
    from PIL import Image

    with Image.open(file) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 500
    assert file.stat().st_size < 300_000
    assert any(f"images/{file.name}" in page.read_text() for page in PAGES)


def test_readme_opens_with_a_picture() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line]
    assert lines[1].startswith("![")


def test_reference_has_every_public_name() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    missing = [name for name in lf.__all__ if f"`lf.{name}" not in text]
    kinds = [
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, lf.LandformError) and f"`{name}`" not in text
    ]
    words = [word for word in (*LOSS_NAMES, *CATALOGUE) if word not in text]
    assert (missing, [k for k in kinds if k != "LandformError"], words) == ([], [], [])


def test_the_readme_names_every_extra() -> None:
    text = (ROOT / "README.md").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [name for name in extras if not re.search(rf"`{name}`\s\(", text)] == []


def test_reference_names_no_name_that_is_not_there() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    assert {name for name in re.findall(r"`lf\.(\w+)", text) if not hasattr(lf, name)} == set()


def test_reference_has_every_field_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/reference.md").read_text()
    bundle = str(tmp_path / "bowl.landform")
    commands = {
        "imprint": ["formula:sphere", "--resolution", "4", "-o", bundle, "--no-picture"],
        "certify": [bundle],
        "scan": [bundle, "--grid", "5", "-o", str(tmp_path / "bowl.zarr")],
        "plan": ["--widths", "8", "8", "8"],
    }
    for command, arguments in commands.items():
        assert main([command, *arguments, "--json", "--quiet"]) == 0
        fields = set(json.loads(capsys.readouterr().out))
        part = text.split(f"\n`{command}`:\n")[1].split("\n\n`")[0]
        assert fields <= set(re.findall(r"`(\w+)`", part)), command


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()


def test_commands_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in re.findall(r"^landform (\w+)", text, re.MULTILINE):
        assert main([command, "--help"]) == 0


def test_docs_speak_of_the_project_alone() -> None:
    for page in [*PAGES, *(ROOT / "examples").glob("*.py")]:
        assert not re.search(r"/(home|root|tmp)/|issue #?\d", page.read_text()), page
