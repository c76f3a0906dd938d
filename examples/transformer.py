"""The loss around a transformer that reads English: tokens, tied embeddings, and the path of training.

A small GPT-2 (Hugging Face's, built from its configuration) learns the letters of Python's own documentation, which
every Python has on board. The loss is the model's own, a mean over tokens; whole sequences are the samples. Drawn are
the plane in which training moved, with its path, and the two directions of largest curvature around its end.

    python examples/transformer.py            # writes transformer.png, some minutes
    python examples/transformer.py --quick    # tiny, for a test
"""

import argparse
import pydoc_data.topics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import landform as lf
from landform.view import draw_path, heat
from landform.view.picture import rendered
from landform.view.style import new_figure, quiet_style

if TYPE_CHECKING:
    import xarray

LETTERS = 96
"""Printable ASCII; everything else is a blank."""


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train, measure and draw; return what was found."""
    parser = argparse.ArgumentParser(description="The loss around a transformer.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of transformer.png (default: here)")
    parser.add_argument("--quick", action="store_true", help="one layer, few steps, a coarse grid")
    options = parser.parse_args(arguments)

    width, layers, length = (16, 1, 16) if options.quick else (64, 4, 64)
    model = build(width, layers, length)
    text = letters()
    cut = 9 * len(text) // 10
    trajectory = train(model, text[:cut], length, steps=20 if options.quick else 400)
    count = 40 if options.quick else 512
    held_out = text[cut : cut + count * length].reshape(count, length)
    task = lf.Task(model, loss="model", data=held_out, name="GPT-2")

    grid: dict[str, Any] = {"grid": 5} if options.quick else {"grid": 33, "tolerance": 0.01}
    path = lf.pca_plane(trajectory, model=task)
    surfaces = {"where training went": lf.scan(task, path, **grid)}
    if not options.quick:
        around = lf.hessian_plane(task, samples=64)
        surfaces["largest curvature"] = lf.scan(task, around, **grid)
        print("eigenvalues", [round(float(value), 3) for value in around.meta["eigenvalues"]])
    shares = path.meta["explained_variance"]
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters; the plane holds {100 * sum(shares):.1f} % of the"
    )
    print(f"variance of {len(trajectory)} checkpoints, which lie up to {max(path.meta['off_plane']):.3g} off it")
    for name, surface in surfaces.items():
        nodes = surface.loss.size
        print(f"{name}: {nodes} nodes for {surface.attrs['evaluations']:.0f} passes over {task.n} sequences")
    draw(surfaces, options.out / "transformer.png")
    first = surfaces["where training went"]
    return {
        "explained": float(sum(shares)),
        "least": float(first.loss.min()),
        "end": float(task.evaluate()),
        "passes": float(first.attrs["evaluations"]),
    }


def build(width: int, layers: int, length: int) -> Any:
    """Build a GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=LETTERS, n_positions=length, n_embd=width, n_layer=layers, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def letters() -> torch.Tensor:
    """Return the documentation of Python's language as numbers, one a letter."""
    text = " ".join(" ".join(topic.split()) for topic in pydoc_data.topics.topics.values())
    return torch.tensor([ord(letter) - 32 if 32 <= ord(letter) < 32 + LETTERS else 0 for letter in text])


def train(model: Any, text: torch.Tensor, length: int, *, steps: int) -> lf.Trajectory:
    """Train on random pieces of the text, and record twenty checkpoints."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    trajectory, generator = lf.Trajectory(), torch.Generator().manual_seed(0)
    for step in range(steps + 1):
        if step % max(1, steps // 20) == 0:
            trajectory.record(model, step)
        starts = torch.randint(0, len(text) - length, (32,), generator=generator)
        tokens = text[starts[:, None] + torch.arange(length)]
        optimiser.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimiser.step()
    model.eval()
    return trajectory


def draw(surfaces: "dict[str, xarray.Dataset]", file: Path) -> None:
    """Draw the surfaces, with the path of training where the plane comes from it."""
    with quiet_style():
        figure = new_figure(5.2 * len(surfaces), 4.4)
        panels = figure.subplots(1, len(surfaces), squeeze=False)[0]
        for ax, (name, surface) in zip(panels, surfaces.items(), strict=True):
            heat(surface, ax=ax, title=name, notes=False)
            if "path" in surface.attrs:
                draw_path(ax, surface)
        figure.suptitle(str(next(iter(surfaces.values())).attrs["title"]), x=0.012, ha="left", fontsize=10.5)
        file.write_bytes(rendered(figure))


if __name__ == "__main__":
    main()
