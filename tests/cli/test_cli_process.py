"""The command line as its own process: imports, exit codes, pipes, Ctrl-C. Each start costs seconds: few."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"
DOCS = Path(__file__).parents[2] / "docs"


def landform(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "landform", *map(str, words)], capture_output=True, text=True, check=False, **options
    )


BARE = """
import sys, types
package = types.ModuleType("landform")  # the command line alone, without the package's public face
package.__path__ = [{src!r}]
sys.modules["landform"] = package
from landform.cli import main
assert main(["imprint", "--help"]) == 0
heavy = sorted({{"torch", "numpy", "xarray", "matplotlib", "zarr"}} & set(sys.modules))
sys.exit("imported " + ", ".join(heavy) if heavy else 0)
"""


def test_help_of_the_command_line_imports_nothing_heavy():
    ran = subprocess.run([sys.executable, "-c", BARE.format(src=str(SRC / "landform"))], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_help_starts_without_torch():
    code = "import sys, landform.cli; landform.cli.main(['--help']); sys.exit('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, "landform/__init__.py imports torch before a command needs it"


def test_from_a_picture_to_a_certificate_and_back(tmp_path):
    made = landform("imprint", "demo", "--resolution", 8, "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert (tmp_path / found["picture"]).stat().st_size > 10_000
    assert "Warning" not in made.stderr
    assert "\x1b" not in made.stderr
    proved = landform("certify", found["bundle"], "--data", "digits", "--json", cwd=tmp_path)
    assert proved.returncode == 0, proved.stderr
    assert json.loads(proved.stdout)["bound"] <= found["bound"] * (1 + 1e-9)


def test_a_broken_pipe_is_quiet():
    command = f'"{sys.executable}" -m landform info | head -n 1; echo "${{PIPESTATUS[0]}}"'
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.stdout.splitlines()[0] == "versions"
    assert ran.stdout.splitlines()[1] in ("0", "141")
    assert ran.stderr == ""


def test_ctrl_c_leaves_nothing(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\ndef make():\n    pathlib.Path('started').touch()\n    time.sleep(60)\n"
    )
    words = [sys.executable, "-m", "landform", "imprint", "demo", "--model", "slow:make"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err == "interrupted; nothing was left half-written\n"
    assert not list(tmp_path.glob("*.landform"))


def test_the_reference_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == module.page(), "run: python docs/generate_cli.py"
