"""A picture in the loss of a language model that still speaks: Theorem 2 in a small GPT-2.

A GPT-2 (Hugging Face's, built from its configuration) learns the letters of Python's own documentation. Then a picture
is compiled behind its blocks: over two biases its loss, a mean over tokens, is the picture, and where the picture is 0
it predicts what it was trained to. Drawn are the loss on random directions and on the compiled ones: the same network,
the same data, the same loss.

    python examples/language_model.py            # writes language_model.png, some minutes
    python examples/language_model.py --quick    # tiny, for a test
"""

import argparse
import pydoc_data.topics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import landform as lf
from landform.view import slices
from landform.view.picture import rendered

LETTERS = 96
"""Printable ASCII; everything else is a blank."""


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train, compile, measure and draw; return what was found."""
    parser = argparse.ArgumentParser(description="A picture in the loss of a language model.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of language_model.png (default: here)")
    parser.add_argument("--pattern", default="text:GPT", help="what the loss shall look like")
    parser.add_argument("--double", action="store_true", help="float64: proved to the response curve's gap")
    parser.add_argument("--quick", action="store_true", help="two small blocks, few steps, a coarse grid")
    options = parser.parse_args(arguments)

    width, layers, length = (32, 2, 16) if options.quick else (64, 4, 64)
    text, model = letters(), build(width, layers, length)
    cut = 9 * len(text) // 10
    train(model, text[:cut], length, steps=80 if options.quick else 600)
    count = 20 if options.quick else 128
    pieces = [part[: count * length].reshape(count, length) for part in (text[:cut], text[cut:])]
    own, other = ((part, part) for part in pieces)

    task = lf.Task(model.double() if options.double else model, "causal_lm", own, name="GPT-2")
    pattern = lf.Pattern.parse(options.pattern, resolution=6 if options.quick else 32)
    made = lf.imprint(pattern, task, method="offset")
    assert made.certificate is not None
    print(made.certificate, *made.meta["notes"], sep="\n")
    h = torch.rand(4 if options.quick else 24, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    train_errors, test_errors = lf.account(made, points=h), lf.account(made, other, points=h)
    print(train_errors, test_errors, sep="\n")
    figure = slices(made, grid=5 if options.quick else 33, tolerance=0.0 if options.quick else 0.01)
    options.out.joinpath("language_model.png").write_bytes(rendered(figure))
    return {
        "trained": float(task.evaluate()),
        "floor": made.range[0],
        "bound": made.certificate.bound,
        "off": float(train_errors.difference.max()),
        "token": float(train_errors.worst.max()),
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


def train(model: Any, text: torch.Tensor, length: int, *, steps: int) -> None:
    """Train on random pieces of the text."""
    optimiser, generator = torch.optim.AdamW(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(0, len(text) - length, (32,), generator=generator)
        tokens = text[starts[:, None] + torch.arange(length)]
        optimiser.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimiser.step()
    model.eval()


if __name__ == "__main__":
    main()
