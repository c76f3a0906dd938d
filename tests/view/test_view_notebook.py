"""Notebook views and the accessor."""

import base64
import csv
import io
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from landform.imprint.make import imprint
from landform.pattern import Pattern, SumPattern
from landform.scan import scan
from landform.view import imprint_html, register, surface_html

EVIL = "<script>alert('x')</script>&\"$\\frac"


@pytest.fixture(scope="module")
def made():
    return imprint(Pattern.from_formula("sphere", resolution=8), "digits")


def image_of(html):
    content = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", html)[1])
    assert len(content) <= 200_000
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image


def test_an_imprint_shows_its_picture_and_its_proof(made):
    html = made._repr_html_()
    assert image_of(html).size[0] > 500
    assert "formula:sphere" in html
    assert "|loss − pattern| is at most" in html
    assert "no certificate yet" in imprint_html(replace(made, certificate=None))


def test_names_are_escaped(made):
    named = replace(made, pattern=replace(made.pattern, name=EVIL))
    surface = scan(named, grid=3, check=0)
    for html in (imprint_html(named), surface_html(surface)):
        assert "<script" not in html
        assert "&lt;script&gt;" in html
        assert 'x")' not in html.replace("&quot;", "")


def test_other_dimensions_are_shown_too():
    for pattern in (SumPattern.from_formula("sphere", z=20, resolution=4), Pattern.from_array([0.0, 1.0, 0.5])):
        image_of(imprint_html(imprint(pattern, "digits", certify=False)))


def test_the_accessor_draws_and_exports(made, tmp_path):
    register()
    register()
    surface = scan(made, grid=(3, 2), check=0)
    face = surface.landform
    assert face.plot(variable="difference").get_xlabel() == "$h_{1}$"
    assert face.relief().name == "3d"
    assert surface.isel(h2=0).landform.plot().get_ylabel() == "loss (nat)"
    assert face.picture(tmp_path / "a.png").axes
    image_of(face._repr_html_())
    text = face.to_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6
    assert list(rows[0])[:3] == ["h1", "h2", "loss"]
    for row in rows:
        value = surface.loss.sel(h1=float(row["h1"]), h2=float(row["h2"]))
        assert float(row["loss"]) == float(value)


def test_csv_of_heads_and_points(made):
    values = torch.rand(2, 2, 3, dtype=torch.float64)
    heads = scan(imprint(Pattern.from_array(values, channels=True), "digits", certify=False), check=0)
    rows = list(csv.DictReader(io.StringIO(heads.landform.to_csv())))
    assert list(rows[0])[:3] == ["h1", "h2", "channel"]
    assert len(rows) == 12
    points = scan(made, points=np.array([[0.25, 0.5], [1.0, 0.0]]), check=0)
    rows = list(csv.DictReader(io.StringIO(points.landform.to_csv())))
    assert [(row["node"], row["h1"], row["h2"]) for row in rows] == [("0", "0.25", "0.5"), ("1", "1.0", "0.0")]
    assert points.landform._repr_html_()


def test_a_cell_that_ends_with_a_figure_or_its_axes_shows_them(made):
    from matplotlib.figure import Figure

    register()
    surface = scan(made, grid=5, check=0)
    drawn = [surface.landform.picture(), surface.landform.plot(), surface.landform.contour(), surface.landform.relief()]
    for shown in drawn:
        with Image.open(io.BytesIO(shown._repr_png_())) as image:
            inches = (shown if isinstance(shown, Figure) else shown.figure).get_size_inches()
            assert np.abs(np.array(image.size) / inches - 110).max() < 1
            assert np.unique(np.asarray(image.convert("L"))).size > 20  # not an empty sheet
    again = pickle.loads(pickle.dumps(drawn[1].figure))
    assert again._repr_png_() == drawn[1].figure._repr_png_()
    mine = Figure().add_subplot()
    assert surface.landform.plot(ax=mine) is mine
    assert not hasattr(mine, "_repr_png_")  # pyplot shows the caller's own
