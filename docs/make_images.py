"""Draw the pictures of README and docs, all of them from what the program itself makes and measures.

    python docs/make_images.py            # all of them, about a minute
    python docs/make_images.py cat hats   # some

The colour picture uses Fashion-MNIST where it is installed (else digits); everything else is made from digits.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import landform as lf
from landform.view import heat, relief
from landform.view.compare import difference_map
from landform.view.style import new_figure, quiet_style

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for the networks of the benchmarks
IMAGES = HERE / "images"
EXAMPLES = HERE.parent / "examples"
BLUE, RED, GREY = "#1f5fa8", "#d1495b", "#8a929c"


def cat() -> None:
    """Draw the first picture of the README: the photograph in the loss, as a landscape, and the error."""
    made = lf.imprint("demo", "digits")
    surface = lf.scan(made, progress=False)
    with quiet_style():
        figure = new_figure(11.4, 3.4)
        grid = figure.add_gridspec(1, 3, width_ratios=[1, 1.1, 1])
        left, middle, right = (figure.add_subplot(grid[k], projection="3d" if k == 1 else None) for k in range(3))
        heat(surface, ax=left, title="loss of a network on digits, measured")
        relief(surface, ax=middle, title="the same, as a landscape")
        middle.set(zlabel="", zticks=[])
        difference_map(surface, None, right, title=f"error (proved: {made.certificate.bound:.1e} nat at most)")
        save(figure, "cat", dpi=105)


def hats() -> None:
    """Draw how hinges make a hat, and what a strip is."""
    x, y = np.meshgrid(np.linspace(-1.6, 1.6, 321), np.linspace(-1.6, 1.6, 321), indexing="ij")

    def relu(t: np.ndarray) -> np.ndarray:
        return np.maximum(t, 0.0)

    hat = relu(1 + x - relu(x) - relu(y) - relu(x - y))
    with quiet_style():
        figure = new_figure(10.6, 2.9)
        panels = figure.subplots(1, 4)
        for ax, values, title in zip(
            panels,
            (relu(x), relu(y), relu(x - y), hat),
            ("hinge  relu(x)", "hinge  relu(y)", "hinge  relu(x − y)", "hat  relu(1 + x − the three)"),
            strict=True,
        ):
            ax.imshow(values.T, extent=(-1.6, 1.6, -1.6, 1.6), origin="lower", cmap="Blues", vmax=max(1, values.max()))
            for k in (-1, 0, 1):  # the Kuhn mesh
                ax.axvline(k, color="black", linewidth=0.4)
                ax.axhline(k, color="black", linewidth=0.4)
            for k in (-2, -1, 0, 1, 2):
                ax.plot([-2 + k, 2 + k], [-2, 2], color="black", linewidth=0.4)
            ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal")
            ax.set(xlabel="x", title=title)
        panels[0].set_ylabel("y")
        save(figure, "hats")


def response() -> None:
    """Draw ρ, the spline that undoes it, and what is left over."""
    from landform.response import fit_spline, respond

    rho = respond("cross_entropy", lf.load_data("digits").targets)
    lo, hi = rho.auto_range()
    s = torch.linspace(0, float(rho.inverse(torch.tensor([hi], dtype=torch.float64))) * 1.1, 300, dtype=torch.float64)
    tau = torch.linspace(0, 1, 4001, dtype=torch.float64)
    with quiet_style():
        figure = new_figure(10.6, 3.2)
        left, middle, right = figure.subplots(1, 3)
        left.plot(s, rho.along(s), color=BLUE)
        left.axhspan(lo, hi, color=BLUE, alpha=0.08)
        left.axhline(rho.floor, color=RED, linewidth=0.8)
        left.annotate(f"floor {rho.floor:.3f}", (s[-1], rho.floor), ha="right", va="bottom", color=RED, fontsize=8)
        left.annotate("range", (0.08, 0.5 * (lo + hi)), color=BLUE, fontsize=8)
        left.set(xlabel="signal s that the network emits", ylabel="loss ρ(s) (nat)", title="response ρ, digits")
        for units, colour in ((4, GREY), (14, BLUE), (43, RED)):
            spline = fit_spline(rho, lo, hi, units=units)
            middle.plot(tau, spline(tau), color=colour, label=f"{units} knots")
            error = (rho.along(spline(tau)) - (lo + (hi - lo) * tau)).abs()
            right.semilogy(tau, error.clamp(min=1e-9), color=colour, label=f"{units} knots: {spline.gap:.1e}")
        middle.set(xlabel="pattern value τ", ylabel="s = ψ(τ)", title="ψ, a spline close to the inverse of ρ")
        right.set(xlabel="pattern value τ", ylabel="|ρ(ψ(τ)) − t| (nat)", title="what is left over", ylim=(1e-7, 3))
        middle.legend()
        right.legend(loc="upper left")
        save(figure, "response")


def transfer() -> None:
    """Draw the surfaces on other data, by the example."""
    by_example("transfer", "transfer")


def figure1() -> None:
    """Draw the colour picture of three heads: target, measured losses and landscape."""
    sys.path.insert(0, str(EXAMPLES))
    from figure1 import colours, fashion_or_digits

    from landform.view.colour import in_colour
    from landform.view.heat import draw_cells

    data = fashion_or_digits()
    made = lf.imprint(colours(None, 96), data)
    surface = lf.scan(made, progress=False)
    x, y = (surface[name].values for name in ("h1", "h2"))
    loss = in_colour(surface, "loss")
    with quiet_style():
        figure = new_figure(10.6, 3.9)
        grid = figure.add_gridspec(1, 3, width_ratios=[1, 1, 1.15])
        for k, (title, rgb) in enumerate(
            {"wanted": in_colour(surface, "target"), f"measured: three losses on {data.name}": loss}.items()
        ):
            ax = figure.add_subplot(grid[k])
            draw_cells(ax, x, y, rgb)
            ax.set(xlabel="$h_1$", ylabel="$h_2$", title=title, aspect="equal")
        ax3 = figure.add_subplot(grid[2], projection="3d")
        relief(surface[["loss"]].mean("channel", keep_attrs=True), ax=ax3, colours=loss, title="their mean, in relief")
        save(figure, "figure1", dpi=90, colours=None)


def directions() -> None:
    """Draw a path in its principal plane, the worst direction beside random ones, and a curve round a wall."""
    from torch import nn

    from landform.view.trajectory import draw_path

    data = lf.load_data("digits")

    def train(seed: int) -> tuple[nn.Module, lf.Trajectory]:
        torch.manual_seed(seed)
        model, path = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10)), lf.Trajectory()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.8)
        for step in range(201):
            if step in (0, 1, 2, 3, 4, 6, 8) or step % 10 == 0:
                path.record(model, step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.inputs), data.targets).backward()
            optimizer.step()
        return model, path

    (model, path), (other, _) = train(0), train(1)
    task = lf.Task(model, data=data)
    plane = lf.pca_plane(path)
    with quiet_style():
        figure = new_figure(11.4, 3.5)
        left, middle, right = figure.subplots(1, 3)
        heat(lf.scan(task, plane, grid=41, progress=False), ax=left, log=True, title="training, in its principal plane")
        draw_path(left, lf.project(plane, path))
        worst = lf.worst_direction(task, radius=0.3, beside=0)
        for k in range(8):
            line = lf.scan(task, lf.random_plane(task, z=1, seed=k), grid=41, ranges=[(-0.6, 0.6)], progress=False)
            middle.plot(line.h1, line.loss, color=GREY, linewidth=0.8, label="random" if not k else None)
        line = lf.scan(task, worst, grid=41, ranges=[(-0.6, 0.6)], progress=False)
        middle.plot(line.h1, line.loss, color=RED, label="worst at 0.3")
        middle.set(
            xlabel="h, in lengths of the filters", ylabel="loss (nat)", yscale="log", title="directions through it"
        )
        middle.legend()
        curve = lf.bezier(task, model, other, steps=400, rate=0.03)
        heat(lf.scan(task, curve.plane, grid=41, progress=False), ax=right, log=True, title="between two networks")
        t = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
        x, y = curve.coordinates(t).T
        right.plot(x, y, color="white", linewidth=1.6)
        right.plot([0, 0], [0, 1], color="white", linewidth=1.0, linestyle="--")
        right.plot([0, 0], [0, 1], "o", color="white", markeredgecolor="black", markersize=5)
        right.set(xlabel="towards the control point", ylabel="towards the other network")
        save(figure, "directions", dpi=105)


def minimum() -> None:
    """Draw one trained minimum three times: random directions, a needle, a plain."""
    from torch import nn

    from landform.view import measure_slices

    digits = lf.load_data("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        for _ in range(4):
            model.extend([nn.Linear(32, 32), nn.ReLU()])
        model.append(nn.Linear(32, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits.inputs), digits.targets).backward()
            optimizer.step()
    task = lf.Task(model.eval(), data=digits)
    sharp = lf.Pattern.from_callable(lambda h: (8 * (h - 0.5).norm(dim=1)).clamp(max=1.0), resolution=16, name="sharp")
    flat = lf.Pattern.from_callable(
        lambda h: (4 * ((h - 0.5).norm(dim=1) - 0.45)).clamp(min=0.0, max=1.0), resolution=16, name="flat"
    )
    found = [
        measure_slices(lf.imprint(p, task, method="offset", certify=False), at=[0.5, 0.5], grid=17)
        for p in (sharp, flat)
    ]
    with quiet_style():
        figure = new_figure(10.8, 3.2)
        panels = (
            (found[0]["random"], 0.0, "random directions"),
            (found[0]["compiled"], 0.5, "compiled directions, sharp"),
            (found[1]["compiled"], 0.5, "compiled directions, flat"),
        )
        for ax, (surface, at, title) in zip(figure.subplots(1, 3), panels, strict=True):
            heat(surface, ax=ax, title=title, log=surface is found[0]["random"], dots=False, notes=False)
            ax.plot(at, at, marker="+", markersize=9, markeredgewidth=1.4, color="white")
        save(figure, "minimum", dpi=105)


def landscape() -> None:
    """Draw the loss around a trained network, by the example."""
    by_example("landscape", "landscape", colours=None, width=1100)


def by_example(example: str, name: str, *, colours: int | None = 256, width: int = 1240) -> None:
    """Run an example and keep its picture."""
    sys.path.insert(0, str(EXAMPLES))
    main = __import__(example).main
    with tempfile.TemporaryDirectory() as folder:
        main(["--out", folder])
        write((Path(folder) / f"{name}.png").read_bytes(), name, width=width, colours=colours)


def networks() -> None:
    """Draw the same photograph in an MLP, a ResNet-18 and a GPT-2 of the widths they come with, each measured."""
    from benchmarks.streams import gpt2

    from landform.testing.networks import resnet18, with_statistics

    photograph = lf.Pattern.parse("demo", resolution=60)
    torch.manual_seed(0)
    images = torch.randn(64, 3, 8, 8, dtype=torch.float64)
    residual = with_statistics(resnet18()).double()
    language, tokens = gpt2()
    made = {
        "MLP on digits, hats, float32": lf.imprint(photograph, "digits"),
        "ResNet-18, strips, float64": lf.imprint(
            photograph, lf.Task(residual, data=(images, torch.arange(64) % 10)), form="strips"
        ),
        "GPT-2 (6 × 256), hats, float32": lf.imprint(photograph, lf.Task(language.eval(), data=tokens), form="hats"),
    }
    with quiet_style():
        figure = new_figure(11.4, 4.0)
        for number, (name, imprint) in enumerate(made.items(), 1):
            surface = lf.scan(imprint, grid=61, check=1, progress=False)
            ax = figure.add_subplot(1, 3, number)
            heat(surface, ax=ax, title=name)
            h = np.stack(np.meshgrid(surface.h1.values, surface.h2.values, indexing="ij"), -1).reshape(-1, 2)
            wanted = imprint.target(torch.from_numpy(h)).reshape(surface.loss.shape).numpy()
            lo, hi = imprint.range
            error = float(np.abs(surface.loss.values - wanted).max()) / (hi - lo)
            proof = imprint.certificate
            ax.set_xlabel(f"$h_1$\nmeasured error {error:.1e}, {proof.kind} {proof.relative_bound:.1e} of the range")
            print(name, error, proof.kind, proof.relative_bound, proof.holds)
        save(figure, "networks", dpi=110)


def save(figure: object, name: str, dpi: int = 120, colours: int | None = 256) -> None:
    """Write a figure."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": "landform"})  # type: ignore[attr-defined]
    write(stream.getvalue(), name, colours=colours)


def write(png: bytes, name: str, *, width: int = 1240, colours: int | None = 256) -> None:
    """Write a picture with few colours, at most ``width`` pixels wide, so that the repository stays small."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    file = IMAGES / f"{name}.png"
    if colours is not None:
        picture = picture.quantize(colours, dither=Image.Dither.NONE)
    picture.save(file, optimize=True)
    print(f"{file}: {picture.width} × {picture.height}, {file.stat().st_size / 1000:.0f} kB")


PICTURES: dict[str, Callable[[], None]] = {
    "cat": cat,
    "hats": hats,
    "response": response,
    "transfer": transfer,
    "figure1": figure1,
    "landscape": landscape,
    "minimum": minimum,
    "directions": directions,
    "networks": networks,
}

if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for wanted in sys.argv[1:] or PICTURES:
        PICTURES[wanted]()
