"""Pictures of Theorem 2: the same network on random directions, and the histogram of its samples' errors."""

import numpy as np
import pytest
import torch
from PIL import Image

import landform as lf
from landform.cli import main
from landform.errors import InputError
from landform.imprint.accounting import Accounting
from landform.view import error_histogram, measure_slices, slices
from landform.view.slices import lowest, trained_part

BOWL = lf.Pattern.from_formula("sphere", resolution=4)
MIDDLE = torch.tensor([0.5, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(("kind", "method"), [("mlp", "offset"), ("cnn", "per-sample"), ("bn", "per-sample")])
def test_both_surfaces_are_one_network_and_meet_at_the_minimum(trained, kind, method):
    made = lf.imprint(BOWL, trained(kind), method=method, scores="own", certify=False)
    found = measure_slices(made, grid=3)
    at = float(made.task.evaluate(made.subspace.at(MIDDLE)))
    assert float(found["random"].loss.sel(h1=0, h2=0)) == pytest.approx(at, abs=1e-12)
    assert float(found["compiled"].loss.sel(h1=0.5, h2=0.5)) == pytest.approx(at, abs=1e-12)
    assert float(found["random"].loss.max()) > at + 0.1
    assert found["random"].attrs["at"] == [0.5, 0.5]
    assert float(abs(found["compiled"].difference).max()) < 0.02  # a sample of 400 that the CNN gets wrong weighs 0.013


@pytest.mark.parametrize("units", ["widen", "reserve"])
def test_random_directions_leave_the_compiled_part_alone(trained, units):
    made = lf.imprint(BOWL, trained("wide", torch.float32), method="offset", units=units, certify=False)
    mask = trained_part(made)
    for name in made.subspace.moved:
        assert not bool(mask[name][made.meta["channels"][0]].any())  # the injected biases are compiled
    origin = made.subspace.origin
    moved = {
        n: torch.where(m, v + torch.randn(v.shape), v) for (n, v), m in zip(origin.items(), mask.values(), strict=True)
    }
    signal = []
    for parameters in (origin, moved):  # the signal is what the head's pattern columns add: the same for both
        at = {**parameters, **{n: parameters[n] + 0.3 * d[n] for d in made.subspace.directions for n in d}}
        head = dict(at, **{"11.weight": torch.where(mask["11.weight"], 0.0, at["11.weight"])})
        with torch.no_grad():
            out = torch.func.functional_call(made.model, head, (made.task.data.inputs[:4],)) - head["11.bias"]
        signal.append(out)
    assert torch.allclose(*signal, atol=1e-5)
    assert float(signal[0].abs().max()) > 0


def test_slices_are_drawn_and_marked(trained):
    made = lf.imprint(BOWL, trained("mlp"), method="offset", certify=False)
    figure = slices(made, measure_slices(made, grid=3), with_relief=True)
    left, right = (
        ax for ax in figure.axes if ax.get_title(loc="left") in ("random directions, seed 0", "compiled directions")
    )
    assert [list(ax.lines[-1].get_xydata()[0]) for ax in (left, right)] == [[0, 0], [0.5, 0.5]]
    assert "in both maps" in figure.get_suptitle()
    assert "sampled" not in figure.get_suptitle()


def test_slices_say_how_sure_a_sampled_map_is(trained):
    made = lf.imprint(BOWL, trained("mlp"), method="per-sample", scores="own", certify=False)
    found = measure_slices(made, grid=3)
    random = found["random"]
    found["random"] = random.assign(loss_lower=random.loss - 0.2, loss_upper=random.loss + 0.2)
    found["random"].attrs["confidence"] = 0.99
    words = slices(made, found).get_suptitle()
    assert "random directions, sampled: ± 0.2 nat at most, at all measured nodes at once with 99 %" in words
    assert "compiled directions, sampled" not in words


def test_slices_refuse_what_they_cannot_draw(trained):
    line = lf.Pattern.from_callable(lambda h: h[:, 0], z=1, resolution=4)
    with pytest.raises(InputError, match="z = 1"):
        measure_slices(lf.imprint(line, "digits", certify=False))
    made = lf.imprint(BOWL, "digits", certify=False)
    with pytest.raises(InputError, match="a point of 2 coordinates"):
        measure_slices(made, at=[0.5])
    assert torch.equal(lowest(made), MIDDLE)


def test_the_histogram_has_every_sample_of_every_data_set(trained):
    made = lf.imprint(BOWL, trained("mlp"), method="per-sample", scores="own", certify=False)
    digits = lf.load_data("digits")
    other = (digits.inputs[400:600].double(), digits.targets[400:600])
    h = MIDDLE[None]
    found = [lf.account(made, points=h), lf.account(made, other, points=h)]
    ax = error_histogram(*found, title="bowl")
    heights = np.array([bar.get_height() for bar in ax.patches]).reshape(2, -1)
    assert heights.sum(axis=1) == pytest.approx([1.0, 1.0])
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert f"{100 * found[1].served:.2f} % served" in words[1]
    with pytest.raises(InputError, match="one unit"):
        error_histogram()


def test_the_word_served_stays_inside_the_axes_when_no_sample_is():
    one = torch.ones(3, dtype=torch.float64)
    ax = error_histogram(Accounting("train", torch.zeros(1, 2), one[:1], one, one, one, 1e-3, "nat"))
    ax.figure.canvas.draw()
    (word,) = ax.texts
    assert word.get_window_extent().x0 >= ax.get_window_extent().x0


NETWORK = """
import torch
from torch import nn
import landform as lf

def make():
    digits = lf.load_data("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU())
        for _ in range(4):
            model.extend([nn.Linear(96, 96), nn.ReLU()])
        model.append(nn.Linear(96, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits.inputs), digits.targets).backward()
            optimizer.step()
    return model.eval()
"""


def test_the_command_line_writes_both_pictures(tmp_path, monkeypatch, capsys):
    name = f"trained_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    words = ["imprint", "formula:sphere", "--resolution", "2", "--model", f"{name}:make", "--method", "per-sample"]
    assert main([*words, "--scores", "own", "-o", "bowl.landform"]) == 0
    said = capsys.readouterr()
    assert "scores 'own' have accuracy" in said.err
    assert "% served" in said.err
    for picture in ("surface.png", "view.slices.png", "view.errors.png"):
        with Image.open(tmp_path / "bowl.landform" / picture) as image:
            assert image.size[0] > 500
    assert main(["scan", "bowl.landform", "--grid", "3"]) == 2
    assert "(--data on the command line)" in capsys.readouterr().err
    assert main(["scan", "bowl.landform", "--grid", "3", "--data", "digits", "-o", "again.zarr"]) == 0
    assert "9 points on digits" in capsys.readouterr().out
    assert main([*words[:6], "--method", "offset", "--units", "reserve", "--dry-run"]) == 0
    assert "reserving channels took the accuracy" in capsys.readouterr().err
