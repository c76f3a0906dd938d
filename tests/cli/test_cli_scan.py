"""``landform scan module:factory``: the user's own network, on every plane, with errors that name flags."""

import json

import numpy as np
import pytest
import torch
import xarray
from safetensors.torch import save_file

import landform as lf

NETWORK = """
import torch
from torch import nn

CALLS = [0, 10**9]

def make():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))

def loader(split="train"):
    generator = torch.Generator().manual_seed(1 if split == "train" else 2)
    x = torch.randn(30 if split == "train" else 20, 4, generator=generator)
    return x, (x[:, 0] > 0).long()

def squares(outputs, targets):
    return ((outputs - nn.functional.one_hot(targets, 2)) ** 2).sum(1)

def margin(outputs, targets):
    return outputs.gather(1, targets[:, None])[:, 0]

def stops(outputs, targets):
    CALLS[0] += 1
    if CALLS[0] > CALLS[1]:
        raise KeyboardInterrupt
    return squares(outputs, targets)

def number():
    return 3
"""


@pytest.fixture
def own(tmp_path, write_module):
    """A module of the user's own, five checkpoints of its network, and the words that scan it."""
    name = write_module(NETWORK)
    module = __import__(name)
    (tmp_path / "ckpt").mkdir()
    states = [{key: value + 0.1 * k * torch.sin(k + torch.arange(value.numel())).reshape(value.shape)
               for key, value in module.make().state_dict().items()} for k in range(5)]  # fmt: skip
    for k, state in zip((1, 2, 10, 20, 100), states, strict=True):
        torch.save(state, tmp_path / "ckpt" / f"step-{k}.pt")
    save_file(states[-1], tmp_path / "w.safetensors")
    return f"{name}:make", name, module


def words(own, *more):
    return "scan", own[0], "--data", f"{own[1]}:loader", "--no-picture", "--force", "-o", "s.zarr", *more


def opened():
    return xarray.open_zarr("s.zarr").load()  # as anybody would: a warning is an error here


def task(module, *, state=None, **options):
    model = module.make()
    if state is not None:
        model.load_state_dict(state)
    return lf.Task(model, "cross_entropy", module.loader(), **options)


def test_a_random_plane_is_what_python_gives(run, own):
    ran = run(*words(own, "--weights", "w.safetensors", "--grid", 3, 4, "--seed", 5, "--norm", "layer", "--json"))
    assert ran.code == 0, ran.err
    state = torch.load("ckpt/step-100.pt")
    here = task(own[2], state=state)
    plane = lf.random_plane(here, seed=5, norm="layer")
    want = lf.scan(here, plane, grid=(3, 4), ranges=[(-1, 1)] * 2, progress=False)
    np.testing.assert_array_equal(opened().loss, want.loss)
    assert opened().h2.values.tolist() == want.h2.values.tolist()
    assert ran.json["grid"] == [3, 4]
    assert ran.json["interval"] == 0
    assert ran.json["plane"] == "random, 2 directions, seed 5, norm layer"
    assert {"surface", "evaluations", "samples", "seconds", "interval"} <= set(ran.json)
    assert (ran.json["evaluations"], ran.json["samples"], ran.json["complete"]) == (12, 30, True)


def test_options_reach_the_plane(run, own):
    assert run(*words(own, "--z", 1, "--grid", 3, "--include", "0.*", "--biases", "--range", -0.5, 2)).code == 0
    here = task(own[2])
    line = lf.random_plane(here, z=1, include="0.*", biases=True)
    want = lf.scan(here, line, grid=3, ranges=[(-0.5, 2)], progress=False)
    np.testing.assert_array_equal(opened().loss, want.loss)
    assert run(*words(own, "--grid", 2, "--exclude", "2.*", "--range", -1, 1, 0, 3)).code == 0
    assert opened().h2.values.tolist() == [0, 3]


def test_losses_and_metrics_of_ones_own(run, own):
    ran = run(*words(own, "--grid", 3, "--loss", f"{own[1]}:squares", "--metrics", "accuracy", f"{own[1]}:margin"))
    assert ran.code == 0, ran.err
    surface = opened()
    assert surface.attrs["loss"] == "squares"
    middle = surface.isel(h1=1, h2=1)
    model, (x, y) = own[2].make(), own[2].loader()
    with torch.no_grad():
        outputs = model(x)
    assert float(middle.loss) == pytest.approx(float(own[2].squares(outputs, y).mean()), rel=1e-5)
    assert float(middle.accuracy) == pytest.approx(float((outputs.argmax(1) == y).double().mean()))
    assert float(middle.margin) == pytest.approx(float(own[2].margin(outputs, y).mean()), rel=1e-5)


def test_checkpoints_are_sorted_by_number_and_span_a_plane(run, own, tmp_path):
    ran = run(*words(own, "--checkpoints", "ckpt/*.pt", "--grid", 3, "--json"))
    assert ran.code == 0, ran.err
    files = [tmp_path / "ckpt" / f"step-{k}.pt" for k in (1, 2, 10, 20, 100)]
    plane = lf.pca_plane(files, model=task(own[2]))
    assert ran.json["plane"].startswith("pca, 2 directions, explained variance")
    attrs = opened().attrs
    np.testing.assert_allclose(attrs["path"], plane.meta["coordinates"])
    np.testing.assert_allclose(attrs["off_plane"], plane.meta["off_plane"])
    np.testing.assert_allclose(opened().h1.values[[0, -1]], plane.ranges[0])


def test_checkpoints_are_projected_on_any_plane(run, own):
    assert (
        run(*words(own, "--plane", "random", "--checkpoints", "ckpt/step-1.pt", "ckpt/step-2.pt", "--grid", 2)).code
        == 0
    )
    attrs = opened().attrs
    np.testing.assert_allclose(attrs["path"][0], [0, 0], atol=1e-6)  # the first is the network itself
    assert attrs["off_plane"][1] > 0.01


@pytest.mark.parametrize(
    ("name", "z", "words_of"),
    [("hessian", 2, "eigenvalues"), ("gradient", 1, "1 direction"), ("worst", 1, "1 direction")],
)
def test_planes_of_the_loss_itself(run, own, name, z, words_of):
    if name == "hessian":
        pytest.importorskip("curvlinops")
    ran = run(*words(own, "--plane", name, "--grid", 3, "--json"))
    assert ran.code == 0, ran.err
    assert ran.json["grid"] == [3] * z
    assert words_of in ran.json["plane"]
    middle = opened().loss.values.reshape(-1)[3**z // 2] if float(opened().h1[1]) == 0 else opened().loss.values[0]
    assert middle == pytest.approx(float(task(own[2]).evaluate()), rel=1e-5)


def test_between_two_and_three_checkpoints(run, own):
    ends = ("ckpt/step-1.pt", "ckpt/step-100.pt")
    assert run(*words(own, "--plane", "between", "--checkpoints", *ends, "--grid", 3, "--range", 0, 1)).code == 0
    losses = opened().loss.values
    for number, file in ((0, ends[0]), (2, ends[1])):
        assert losses[number] == pytest.approx(float(task(own[2], state=torch.load(file)).evaluate()), rel=1e-6)
    assert run(*words(own, "--plane", "between", "--checkpoints", "ckpt/step-2.pt", *ends, "--grid", 2)).code == 0
    assert opened().loss.shape == (2, 2)
    alone = run(*words(own, "--plane", "between", "--checkpoints", ends[1], "--grid", 2, "--range", 0, 1))
    assert alone.code == 0
    assert float(opened().loss[1]) == pytest.approx(float(task(own[2]).evaluate()), rel=1e-6)


NORMED = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

def loader():
    torch.manual_seed(1)
    x = 5 + 3 * torch.randn(30, 3)
    return x, (x[:, 0] > 5).long()
"""


@pytest.fixture
def normed(write_module):
    """A network with BatchNorm that its factory returns untrained, and two checkpoints of its training."""
    name = write_module(NORMED, "normed")
    module = __import__(name)
    model, (x, y) = module.make(), module.loader()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(61):
        if step in (20, 40, 60):
            torch.save({"state_dict": model.state_dict()}, f"e{step}.pt")
            torch.save(dict(model.named_parameters()), f"bare{step}.pt")
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return name, model.eval(), float(lf.Task(model, data=(x, y)).evaluate())


def test_checkpoints_bring_the_batch_norm_statistics_of_an_untrained_network(run, normed):
    name, model, trained = normed
    common = ("scan", f"{name}:make", "--data", f"{name}:loader", "--no-picture", "--force", "-o", "s.zarr")
    model.load_state_dict(torch.load("e60.pt")["state_dict"])
    trained = float(task_of(model, name).evaluate())
    ran = run(*common, "--plane", "between", "--checkpoints", "e20.pt", "e60.pt", "--grid", 2)
    assert ran.code == 0, ran.err
    assert "BatchNorm statistics are those of e60.pt at every node; --batch-norm recalibrate" in ran.err
    assert float(opened().loss[-1]) == pytest.approx(trained, rel=1e-5)
    assert opened().h1.attrs["direction"] == "from the first network, 0, to the second, 1"
    ran = run(*common, "--plane", "between", "--checkpoints", "e20.pt", "e60.pt", "--grid", 2, "--weights", "e60.pt")
    assert "BatchNorm statistics are the network's own at every node" in ran.err
    ran = run(*common, "--checkpoints", "e20.pt", "e40.pt", "e60.pt", "--grid", 2, "--weights", "e60.pt")
    assert "BatchNorm" not in ran.err


def test_checkpoints_without_batch_norm_statistics_are_named(run, normed):
    common = ("scan", f"{normed[0]}:make", "--data", f"{normed[0]}:loader", "--no-picture", "--force", "-o", "s.zarr")
    ran = run(*common, "--plane", "between", "--checkpoints", "bare20.pt", "bare60.pt", "--grid", 2)
    assert ran.code == 0, ran.err
    assert "statistics of the network were never set, and bare60.pt has none: --weights, or --batch-norm" in ran.err
    more = ("--plane", "between", "--checkpoints", "bare20.pt", "bare60.pt", "--batch-norm", "recalibrate")
    assert "never set" not in run(*common, *more, "--grid", 2).err


def test_a_network_without_weights_is_the_same_in_each_run(run, normed, tmp_path):
    text = (tmp_path / f"{normed[0]}.py").read_text().replace("    torch.manual_seed(0)\n", "")
    (tmp_path / f"unseeded_{normed[0]}.py").write_text(text)
    words = ("scan", f"unseeded_{normed[0]}:make", "--data", f"{normed[0]}:loader", "--grid", 2, "--store", "kept")
    before = torch.get_rng_state()
    assert run(*words, "--no-picture", "-o", "s.zarr").code == 0
    assert torch.equal(torch.get_rng_state(), before)
    assert run(*words, "--no-picture", "--force", "-o", "s.zarr").code == 0  # or the store would be of another network
    refused = run(*words, "--seed", 3, "--no-picture", "--force", "-o", "s.zarr")
    assert refused.code == 2
    assert "question: seed 0 in the store, seed 3 now" in refused.err


def test_a_folder_named_like_an_option_is_not_taken_for_one(run, normed, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    words = ("scan", f"{normed[0]}:make", "--data", f"{normed[0]}:loader", "--grid", 2, "--no-picture", "-o", "s.zarr")
    refused = run(*words, "--store", "other")
    assert "store other has something else in it" in refused.err
    assert "--other" not in refused.err


def task_of(model, name):
    return lf.Task(model, data=__import__(name).loader())


def test_a_curve_between_two_checkpoints_and_its_plane(run, own):
    ends = ("ckpt/step-1.pt", "ckpt/step-100.pt")
    ran = run(*words(own, "--plane", "curve", "--checkpoints", *ends, "--grid", 5, "--json"))
    assert ran.code == 0, ran.err
    here = task(own[2])
    curve = lf.bezier(here, *ends)
    np.testing.assert_allclose(opened().loss, lf.scan(here, curve, grid=5, progress=False).loss, rtol=1e-5)
    assert ran.json["grid"] == [5]
    said = f"barrier {curve.meta['barrier']:.3g}, on the straight line {curve.meta['barrier_of_line']:.3g}"
    assert ran.json["plane"] == f"curve, 1 direction, seed 0, {said}"
    ran = run(*words(own, "--plane", "bezier", "--checkpoints", *ends, "--grid", 3, "--range", 0, 1, "--json"))
    assert ran.code == 0, ran.err
    surface = opened()
    assert surface.loss.shape == (3, 3)
    assert float(surface.loss[0, 0]) == pytest.approx(
        float(task(own[2], state=torch.load(ends[0])).evaluate()), rel=1e-6
    )
    assert float(surface.loss[0, 2]) == pytest.approx(
        float(task(own[2], state=torch.load(ends[1])).evaluate()), rel=1e-6
    )
    np.testing.assert_allclose(surface.attrs["path"][20], [0.5, 0.25])  # half way along the curve
    assert surface.attrs["subspace"]["barrier"] == curve.meta["barrier"]
    plan = run(*words(own, "--plane", "curve", "--checkpoints", *ends, "--dry-run", "--json"))
    assert (plan.json["points"], plan.json["plane"]) == (65, "curve, 1 direction, seed 0")


def test_a_subspace_that_was_saved(run, own, tmp_path):
    here = task(own[2])
    kept = lf.save_subspace(lf.random_plane(here, seed=7), tmp_path / "plane")
    ran = run(*words(own, "--plane", kept, "--grid", 2, "--json"))
    assert ran.code == 0, ran.err
    np.testing.assert_allclose(opened().loss, lf.scan(here, lf.random_plane(here, seed=7), grid=2, progress=False).loss)
    ran = run(*words(own, "--plane", kept, "--seed", 3))
    assert (ran.code, "--seed does not belong to --plane" in ran.err) == (2, True)


@pytest.mark.parametrize("name", ["s.nc", "s.csv", "s.html", "s.png"])
def test_every_format(run, own, tmp_path, name):
    if name == "s.html":
        pytest.importorskip("plotly")
    ran = run(
        "scan", own[0], "--data", f"{own[1]}:loader", "--grid", 3, "-o", name, "--checkpoints", "ckpt/*.pt", "--json"
    )
    assert ran.code == 0, ran.err
    assert (tmp_path / name).stat().st_size > 0
    picture = name if name in ("s.html", "s.png") else "s.png"
    assert ran.json["picture"] == picture
    assert (tmp_path / picture).exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_dry_run_says_the_cost_and_writes_nothing(run, own, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    found = run("scan", own[0], "--data", f"{own[1]}:loader", "--dry-run", "--json").json
    assert (found["points"], found["samples"], found["evaluations"]) == (33 * 33, 30, 33 * 33)
    assert found["seconds"] > 0
    assert (found["tile"] >= 8, 1e3 < found["memory"] < 1e8) == (True, True)
    fine = run("scan", own[0], "--data", f"{own[1]}:loader", "--dry-run", "--json", "--tolerance", 0.01).json
    assert fine["points"] == 129 * 129  # those that are not needed are interpolated
    text = run("scan", own[0], "--data", f"{own[1]}:loader", "--dry-run", "--grid", 5, "--tolerance", 0.01).out
    assert "25, each a pass over 30 samples" in text
    assert "tiles" in text
    assert "MB beside Python and PyTorch" in text
    assert "nothing was written" in text
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in str(path)] == [
        path for path in before if "__pycache__" not in str(path)
    ]


def test_both_parts_of_the_data_in_one_surface(run, own):
    ran = run(*words(own, "--grid", 2, "--split", "both", "--json"))
    assert ran.code == 0, ran.err
    assert ran.json["samples"] == {"train": 30, "test": 20}
    surface = opened()
    for part in ("train", "test"):
        here = lf.Task(own[2].make(), data=own[2].loader(part))
        want = lf.scan(here, lf.random_plane(here), grid=2, ranges=[(-1, 1)] * 2, progress=False)
        np.testing.assert_array_equal(surface.loss.sel(split=part), want.loss)
    assert run("scan", own[0], "--data", f"{own[1]}:loader", "--grid", 3, "--split", "both", "-o", "b.png").code == 0


def test_a_subset_has_an_interval(run, own):
    ran = run(*words(own, "--grid", 3, "--subset", 20, "--confidence", 0.9, "--json"))
    assert ran.code == 0, ran.err
    assert ran.json["interval"] > 0
    assert ran.json["confidence"] == 0.9
    assert ran.json["sample_evaluations"] == 9 * 20
    assert "90 %" in run(*words(own, "--grid", 3, "--subset", 20, "--confidence", 0.9)).out


def test_a_tolerance_takes_fewer_evaluations(run, own):
    ran = run(*words(own, "--grid", 65, "--tolerance", 0.2, "--json"))
    assert ran.code == 0, ran.err
    assert ran.json["interval"] == 0  # 30 samples are fewer than a node would take
    assert ran.json["sample_evaluations"] < 65 * 65 * 30 / 4
    assert int((opened().status == 1).sum()) > 2000  # interpolated
    assert opened().attrs["tolerance"] == 0.2
    both = run(*words(own, "--tolerance", 0.2, "--subset", 3))
    assert "--subset fixes the samples of every node, --tolerance chooses them" in both.err


@pytest.mark.filterwarnings("default:between the nodes")
def test_what_is_known_between_the_nodes_is_said(run, own):
    near = run(*words(own, "--grid", 65, "--tolerance", 0.2, "--json"))
    known = near.json["between"]
    assert known["check_outside"] == 0
    assert known["volume_beyond"] == pytest.approx(1 - 0.01 ** (1 / known["check_points"]))  # of the others, none
    assert "warning" not in near.err
    coarse = words(own, "--grid", 3, "--tolerance", 1e-4, "--split", "both")
    far = run(*coarse, "--json")
    assert "warning: between the nodes the surface is off by more than the tolerance" in far.err
    known, attrs = far.json["between"], opened().attrs
    assert known["check_outside"] == attrs["loss_check_outside"] == known["check_points"]
    assert known["volume_beyond"] == 1
    assert known["check_largest"] == max(attrs["loss_check_largest"].values())  # of both parts of the data
    said = run(*coarse).out
    assert f"{known['check_points']} of them beyond the tolerance; with 99 % at most 100 % of the volume is" in said


def test_a_store_goes_on(run, own, tmp_path):
    line = words(own, "--grid", 3, "--store", "kept", "--json")
    first = run(*line)
    assert first.code == 0, first.err
    assert (tmp_path / "kept").is_dir()
    assert run(*line).json["loss"] == first.json["loss"]
    other = run(*words(own, "--grid", 4, "--store", "kept"))
    assert other.code == 2
    assert "kept" in other.err


@pytest.mark.filterwarnings("default:interrupted")
def test_ctrl_c_leaves_what_was_measured(run, own):
    line = words(own, "--grid", 101, "--loss", f"{own[1]}:stops", "--json")
    calls = own[2].CALLS
    assert run(*line).json["complete"] is True
    calls[:] = [0, 2 * calls[0] // 3]
    ran = run(*line)
    assert ran.code == 130
    found = json.loads(ran.out)
    assert found["complete"] is False
    surface = opened()
    assert surface.attrs["complete"] is False
    assert 0 < int((surface.status == 0).sum()) < 101**2
    assert int((surface.status == 1).sum()) == int((surface.samples == 0).sum()) > 0
    assert bool(surface.loss.notnull().all())  # the whole box, more coarsely


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--plane", "randm"], "unknown plane 'randm': did you mean 'random'?"),
        (["--plane", "pca"], "name its files: --checkpoints 'ckpt/*.pt'"),
        (["--plane", "pca", "--checkpoints", "none/*.pt"], "--checkpoints none/*.pt: no such file"),
        (["--plane", "pca", "--checkpoints", "ckpt/*.pt", "--norm", "filter"], "--norm does not belong to --plane pca"),
        (["--plane", "between", "--checkpoints", "ckpt/*.pt"], "--checkpoints names 5"),
        (["--plane", "curve", "--checkpoints", "ckpt/*.pt"], "a curve of low loss between two checkpoints"),
        (["--plane", "bezier"], "--checkpoints names 0"),
        (["--norm", "filtre"], "did you mean 'filter'"),
        (["--include", "layer*"], "layer*"),
        (["--range", 0, 1, 2], "--range has 3 numbers; wanted LO HI for all 2 axes"),
        (["--range", 1, 1], "--range (1.0, 1.0) is empty or not finite"),
        (["--grid", 1], "--grid is 1; wanted nodes per axis"),
        (["--metrics", "acuracy"], "did you mean 'accuracy'"),
        (["--loss", "cross"], "unknown loss 'cross'"),
        (["--weights", "w.pt"], "--weights: no such file: w.pt"),
        (["--model", "a:b"], "--model makes the network of a bundle"),
    ],
)
def test_errors_name_the_flag(run, own, tmp_path, more, said):
    ran = run(*words(own, *more))
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""
    assert not (tmp_path / "s.zarr").exists()


def test_what_is_no_network_is_named(run, own):
    spec, name, _ = own
    assert "did you mean 'make'" in run("scan", f"{name}:mak", "--data", "digits").err
    assert "gave 3 (int), wanted a torch.nn.Module" in run("scan", f"{name}:number", "--data", "digits").err
    assert "needs data to be measured on: --data" in run("scan", spec).err


def test_options_of_ones_own_network_are_refused_for_bundles(run, made):
    ran = run("scan", made, "--plane", "random")
    assert ran.code == 2
    assert "--plane is for a network of your own" in ran.err
    assert "--batch-norm is for a network" in run("scan", made, "--batch-norm", "batch").err
