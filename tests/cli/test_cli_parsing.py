"""Words on the command line: what is understood, and what is said about the rest."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landform.cli.app import COMMANDS
from landform.cli.exits import explain, guarded
from landform.cli.imprint import output_path
from landform.cli.sources import read_range
from landform.cli.terminal import plain
from landform.cli.tokens import SEVERAL, spread
from landform.errors import BundleError, InputError


@pytest.mark.parametrize(
    ("words", "parsed"),
    [
        ("--resolution 64 cat.png", "--resolution=64 cat.png"),
        ("--resolution 64 32 cat.png", "--resolution=64 --resolution=32 cat.png"),
        ("--resolution=64x32 cat.png", "--resolution=64 --resolution=32 cat.png"),
        ("--range auto cat.png", "--range auto cat.png"),
        ("--range -1 1e-3 --force", "--range=-1 --range=1e-3 --force"),
        ("--resolution", "--resolution"),
        ("--epsilon 1 2", "--epsilon 1 2"),
        ("-- --range 1 2", "-- --range 1 2"),
    ],
)
def test_options_of_several_numbers(words, parsed):
    assert spread(words.split()) == parsed.split()


@given(st.lists(st.text(max_size=8).filter(lambda word: word.partition("=")[0] not in SEVERAL)))
def test_other_words_are_left_alone(words):
    assert spread(words) == words


@given(st.lists(st.text(max_size=8) | st.sampled_from([*SEVERAL, "1", "-2.5", "--", "--grid=3"])))
def test_spreading_twice_is_spreading_once(words):
    assert spread(spread(words)) == spread(words)


@pytest.mark.parametrize("words", [["1"], ["1", "2", "3"], ["low", "high"], ["auto", "1"]])
def test_a_range_is_two_numbers_or_auto(words):
    with pytest.raises(InputError, match="--range takes two numbers LO HI, or auto; got"):
        read_range(words)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("pass range='auto' or contrast='stretch'", "pass --range auto or --contrast stretch"),
        ("use axis_aligned=False, or direct=True", "use --no-axis-aligned, or --direct"),
        ("resolution (0, 0): each axis", "--resolution (0, 0): each axis"),
        ("replace it with --force (force=True)", "replace it with --force"),
        ("read it all the same with verify=False", "read it all the same with --ignore-hashes"),
        ("build the network and pass it, lf.load(path, model=Own()). Its", "pass --model module:factory. Its"),
        ("choose a plane (axes=(1, 2))", "choose a plane (--axes 1 2)"),
        ("the range of colours is fine", "the range of colours is fine"),
    ],
)
def test_messages_name_flags(said, wanted):
    assert explain(InputError(said)) == wanted


def test_errors_of_the_system_name_the_file():
    assert explain(FileNotFoundError(2, "No such file or directory", "x.png")) == "x.png: No such file or directory"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("z must be 1"), 2, "error: --z must be 1\n"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was left half-written\n"),
        (BrokenPipeError(), 141, ""),
        (MemoryError(), 2, "error: not enough memory; lower --resolution, or try --form strips\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "error: x: Permission denied\n"),
        (ZeroDivisionError("oh"), 2, "error: unexpected ZeroDivisionError: oh\nThis is a mistake in landform; please"),
    ],
)
def test_exit_codes(error, code, said, capsys, monkeypatch):
    from landform.cli import exits, terminal

    terminal.forget_consoles()
    monkeypatch.setattr(exits, "_point_stdout_at", lambda _: None)

    def fail():
        raise error

    assert guarded(fail, debug=False) == code
    heard = capsys.readouterr()
    assert heard.out == ""
    assert heard.err.startswith(said)
    assert "Traceback" not in heard.err
    assert bool(said) == bool(heard.err)


def test_a_traceback_only_on_request(run, monkeypatch):
    quiet, loud = run("imprint", "nosuch.png"), run("imprint", "nosuch.png", "--debug")
    monkeypatch.setenv("LANDFORM_DEBUG", "1")
    also = run("imprint", "nosuch.png")
    assert (quiet.code, loud.code, also.code) == (2, 2, 2)
    assert ["Traceback" in ran.err for ran in (quiet, loud, also)] == [False, True, True]
    assert quiet.err.startswith("error: no such file: nosuch.png")
    assert quiet.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["imprnt", "demo"], 'Unknown command "imprnt". Did you mean "imprint"?'),
        (["imprint", "demo", "--resoluton", "4"], "Unknown option: --resoluton. Did you mean --resolution?"),
        (["imprint", "demo", "--form", "strip"], 'Did you mean "strips"?'),
        (["imprint", "demo", "--resolution", "many"], 'Invalid value for --resolution: unable to convert "many"'),
        (["imprint"], "imprint needs PATTERN: An image file, text:HELLO"),
        (["certify"], "certify needs BUNDLE"),
        (["imprint", "demo", "cat.png"], "cat.png"),
    ],
)
def test_misuse_shows_the_usage(run, words, said):
    ran = run(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert said in ran.err
    assert "Usage: landform" in ran.err
    assert "Try: landform" in ran.err


def test_a_file_in_place_of_a_command(run, tmp_path):
    (tmp_path / "cat.png").touch()
    assert "To imprint that file: landform imprint cat.png" in run("cat.png").err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_exit_codes(run, name):
    ran = run(name, "--help")
    assert ran.code == 0
    assert ran.err == ""
    for part in (f"Usage: landform {name}", f"Example:\n  landform {name}", "Exit codes: 0", "--json", "2 an error"):
        assert part in ran.out


def test_help_lists_every_command_and_no_other(run):
    out = run("--help").out
    assert all(f"│ {name} " in out for name in COMMANDS)
    assert set(re.findall(r"^│ ([a-z]+) ", out, re.MULTILINE)) == set(COMMANDS)
    assert run().out == out


def test_version(run):
    from importlib.metadata import version

    assert run("--version").out.strip() == version("landform")


@pytest.mark.parametrize(
    ("spec", "name", "folder"),
    [
        ("pictures/cat.jpg", "cat.jpg", "cat.landform"),
        ("qr:https://example.org", "qr:https://example.org", "qr-https-example.org.landform"),
        ("formula:ackley", "formula:ackley", "formula-ackley.landform"),
        ("text:…", "text:…", "text.landform"),
        ("text:../../x", "text:../../x", "text-..-..-x.landform"),
    ],
)
def test_default_folder(spec, name, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert str(output_path(None, spec, name, force=False)) == folder


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BundleError, match="is no landform bundle"):
        output_path(str(tmp_path), "demo", "demo", force=True)


def test_numbers_that_json_cannot_hold():
    import numpy as np

    assert plain({"a": float("nan"), "b": np.float64(1.5), "c": (np.int64(2), None, True)}) == {
        "a": None,
        "b": 1.5,
        "c": [2, None, True],
    }


def test_a_name_between_colons_is_no_emoji(run):
    ran = run("scan", "nomodule:x", "--data", "digits")
    assert ran.code == 2
    assert "error: MODULE:FACTORY nomodule:x: importing nomodule failed" in ran.err
