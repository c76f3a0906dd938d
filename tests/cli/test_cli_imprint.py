"""``landform imprint`` in this process: from every source, with every kind of network and loss."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from landform.bundle import load
from landform.cli.sources import default_dtype, read_loss, read_model, read_weights
from landform.errors import ArchitectureError, BundleError, InputError, UnknownNameError

NETWORK = """
import torch
from torch import nn

def make():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(),
        nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 10),
    )

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = make()

    def forward(self, x):
        return self.body(x)

class Squares(nn.Module):
    def forward(self, outputs, targets):
        return ((outputs - nn.functional.one_hot(targets, 10)) ** 2).sum(1).mean()

ready = make()
squares = Squares()
number = 3

def fails():
    raise RuntimeError("boom")

def three():
    return 3
"""
KEYS = {
    *("bundle", "picture", "bound", "relative_bound", "kind", "range", "resolution", "parameters", "seconds"),
    *("unit", "dtype", "data", "holds", "notes", "z", "channels", "widths", "units", "form", "schedule", "loss"),
}


@pytest.fixture
def network(write_module):
    """A module of the user's own."""
    return write_module(NETWORK, "network")


def small(*more):
    return "imprint", "formula:ackley", "--resolution", 4, *more


def test_json_is_one_object_with_the_promised_keys(run, tmp_path):
    ran = run(*small("--json"))
    assert ran.code == 0
    assert set(ran.json) == KEYS
    found = ran.json
    assert (found["bundle"], found["picture"]) == ("formula-ackley.landform", "formula-ackley.landform/surface.png")
    assert (tmp_path / found["picture"]).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / found["bundle"] / "surface.zarr").is_dir()
    assert (found["kind"], found["holds"], found["resolution"], found["unit"]) == ("certified", True, [4, 4], "nat")
    assert found["data"]["name"] == "digits"
    made = load(found["bundle"])
    assert (found["bound"], found["parameters"]) == (made.certificate.bound, made.parameters)
    assert list(made.range) == found["range"]
    assert found["notes"][0] in ran.err


def test_it_ends_by_saying_where_the_picture_is_and_what_is_proved(run):
    ran = run(*small("-o", "x.landform"))
    last = ran.out.split("picture", 1)[1]
    assert "x.landform/surface.png" in last
    assert "|loss − pattern| is at most" in last
    assert "[certified, float32]" in last
    assert "chosen" in ran.err


def test_quiet_leaves_stderr_empty_and_no_picture_draws_none(run, tmp_path):
    ran = run(*small("-q", "--no-picture", "-o", "x.landform", "--json"))
    assert ran.err == ""
    assert ran.json["picture"] is None
    assert not (tmp_path / "x.landform" / "surface.png").exists()


def test_a_dry_run_writes_nothing(run, tmp_path):
    ran = run(*small("--dry-run", "--json"))
    assert list(tmp_path.iterdir()) == []
    found = ran.json
    assert [found[key] for key in ("bundle", "picture", "bound", "kind", "holds")] == [None] * 5
    assert found["widths"] == found["units"]
    assert found["parameters"] > 0
    assert "dry run" in run(*small("--dry-run")).out


def test_a_bundle_is_replaced_on_demand_only(run, made):
    before = (made / "imprint.json").read_bytes()
    refused = run(*small("-o", made))
    assert refused.code == 2
    assert "--force" in refused.err
    assert "force=True" not in refused.err
    assert (made / "imprint.json").read_bytes() == before


def test_force_replaces(run):
    assert run(*small("-o", "x.landform", "--no-picture")).code == 0
    again = run("imprint", "formula:sphere", "--resolution", 4, "-o", "x.landform", "--no-picture", "--force")
    assert again.code == 0
    assert load("x.landform").pattern.name == "formula:sphere"


def test_nothing_is_left_after_ctrl_c(run, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("landform.bundle.saving._fill", interrupted)
    ran = run(*small("--no-picture", "-q"))
    assert ran.code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "resolution", "channels"),
    [
        (["text:HI", "--resolution", 8], [8, 8], 1),
        (["text:HI", "--resolution", 8, 6, "--invert", "--grey"], [8, 6], 1),
        (["qr:x"], [57, 57], 1),
        (["ramp.npy", "--range", 3, 4], [4, 3], 1),
        (["rgb.npy", "--colour"], [3, 3], 3),
        (["demo", "--resolution", 6, "--colour", "--fit", "stretch", "--contrast", "stretch"], [6, 6], 3),
        (["formula:rastrigin", "--z", 1, "--resolution", 8], [8], 1),
        (["formula:rastrigin", "--z", 6, "--resolution", 4], [4] * 6, 1),
    ],
)
def test_every_source(run, tmp_path, words, resolution, channels):
    np.save(tmp_path / "ramp.npy", np.add.outer(np.arange(5) / 8, np.arange(4) / 6))
    np.save(tmp_path / "rgb.npy", np.random.default_rng(0).random((4, 4, 3)))
    ran = run("imprint", *words, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["resolution"], ran.json["channels"]) == (resolution, channels)


@pytest.mark.parametrize("factory", ["make", "Own", "ready"])
def test_a_network_of_ones_own(run, network, factory):
    ran = run(*small("--model", f"{network}:{factory}", "--no-picture", "--json", "-o", "x.landform"))
    assert ran.code == 0, ran.err
    assert ran.json["widths"] == [8, 40, 30, 40]
    assert ran.json["holds"]


def test_widths_and_dtype(run):
    found = run(*small("--widths", 4, 40, 30, 40, "--dtype", "float64", "--dry-run", "--json")).json
    assert (found["widths"], found["dtype"]) == ([4, 40, 30, 40], "float64")
    assert torch.get_default_dtype() is torch.float32


def test_a_loss_of_ones_own_is_measured_until_it_is_declared_convex(run, network):
    words = small("--loss", f"{network}:squares", "--no-picture", "--json", "--force", "-o", "x.landform")
    assert run(*words).json["kind"] == "measured"
    assert run(*words, "--convex").json["kind"] == "certified"
    bare = run("certify", "x.landform")
    assert bare.code == 2
    assert "--loss module:fn" in bare.err
    assert run("certify", "x.landform", "--loss", f"{network}:squares").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch.png"], "no such file: nosuch.png; a pattern is an image file"),
        (["."], "is a folder, wanted a file"),
        (["formula:rippels"], "did you mean 'ripples'?"),
        (["txet:HI"], "did you mean 'text'?"),
        (["demo", "--z", 3], "demo has no option --z; its options: --resolution, --colour"),
        (["demo", "--resolution", 0], "--resolution (0, 0): each axis needs at least 1 cell"),
        (["text:HI", "--data", "digts"], "did you mean 'digits'?"),
        (["text:HI", "--loss", "cross_entrpy"], "did you mean 'cross_entropy'?"),
        (["text:HI", "--method", "constnt"], "did you mean 'constant'?"),
        (["text:HI", "--range", 0, 1], "pass --range auto"),
        (["text:HI", "--range", 3], "--range takes two numbers"),
        (["text:HI", "--range", 4, 3], "--range must be two finite numbers with lo < hi"),
        (["text:HI", "--weights", "w.pt"], "--weights needs the network they belong to"),
        (["text:HI", "--model", "fits"], "did you mean 'fit'?"),
        (["text:HI", "--model", "no_such_module:make"], "importing no_such_module failed"),
        (["text:HI", "--model", "json:loads", "--widths", 3], "--widths builds a network"),
        (["text:HI", "--widths", 2, 0], "--widths must be positive"),
        (["text:HI", "--widths", 2, 8, 8, 8], "hidden widths 2, 8×3 hold"),
        (["text:HI", "--form", "hinges"], "--form hinges"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_so(run, tmp_path, words, said):
    ran = run("imprint", *words)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert said in ran.err
    assert "unexpected" not in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("attribute", "error", "said"),
    [
        ("fails", InputError, r"fails\(\) raised RuntimeError: boom"),
        ("three", ArchitectureError, r"gave 3 \(int\), wanted a torch.nn.Module"),
        ("number", InputError, "is 3, wanted a function"),
        ("mak", UnknownNameError, "did you mean 'make'"),
    ],
)
def test_factories_that_give_no_network(network, attribute, error, said):
    with pytest.raises(error, match=said):
        read_model(f"{network}:{attribute}")


def test_weights_are_loaded_without_running_anything(network, tmp_path):
    model = read_model(f"{network}:make")
    assert model is not None
    state = {name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pt")
    for name in ("w.safetensors", "w.pt", "checkpoint.pt"):
        loaded = read_model(f"{network}:make", str(tmp_path / name))
        assert loaded is not None
        assert all(bool((value == 0.5).all()) for value in loaded.state_dict().values())
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(InputError, match="holds more than tensors, and loading it could run code"):
        read_weights(str(tmp_path / "module.pt"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds no state dict of tensors but list"):
        read_weights(str(tmp_path / "list.pt"))
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(BundleError, match="cannot be read"):
        read_weights(str(tmp_path / "bad.safetensors"))
    with pytest.raises(BundleError, match="no such file"):
        read_weights(str(tmp_path / "none.pt"))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ArchitectureError, match="do not fit"):
        read_model(f"{network}:make", str(tmp_path / "other.pt"))


def test_losses_by_name_class_and_instance(network):
    assert read_loss("mse") == "mse"
    assert isinstance(read_loss(f"{network}:Squares"), nn.Module)
    assert read_loss(f"{network}:squares") is read_loss(f"{network}:squares")


def test_the_default_dtype_is_put_back_after_an_error():
    def fail():
        with default_dtype("float64"):
            assert torch.get_default_dtype() is torch.float64
            raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        fail()
    assert torch.get_default_dtype() is torch.float32


def test_head_chooses_one_of_several_outputs(run, tmp_path):
    lines = [
        "from torch import nn",
        "class Two(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        layers = [m for size in (64, 40, 40, 40) for m in (nn.Linear(size, 40), nn.ReLU())]",
        "        self.body, self.box, self.digit = nn.Sequential(*layers), nn.Linear(40, 4), nn.Linear(40, 10)",
        "    def forward(self, x):",
        "        x = self.body(x)",
        "        return {'box': self.box(x), 'digit': self.digit(x).log_softmax(1)}",
    ]
    (tmp_path / "twoheads.py").write_text("\n".join(lines))
    net = ("--model", "twoheads:Two", "--head", "digit", "--loss", "nll")
    ran = run("imprint", "formula:sphere", *net, "--resolution", 3, "--json", "-o", "x.landform")
    assert ran.code == 0, ran.err
    assert ran.json["holds"]
    assert ran.json["loss"] == "nll"
    assert run("plan", *net, "--json").json["capacity"]["holdings"][0]["cells"] >= 3
    again = run("certify", "x.landform", "--model", "twoheads:Two", "--data", "digits", "--json")
    assert again.json["bound"] == ran.json["bound"]
    surface = run("scan", "twoheads:Two", *net[2:], "--data", "digits", "--grid", 3, "--no-picture", "--json")
    assert surface.code == 0, surface.err
    wrong = run("imprint", "formula:sphere", "--model", "twoheads:Two", "--head", "digits", "--resolution", 3)
    assert wrong.code == 2
    assert "unknown output 'digits': did you mean 'digit'?" in wrong.err
    assert "name the network too" in run("imprint", "formula:sphere", "--head", "digit").err
