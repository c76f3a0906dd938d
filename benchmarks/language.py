"""Theorem 2 in a language model: how exact, and what the room for it costs, on a small GPT-2 and English letters."""

import time
from typing import Any

import torch

import landform as lf
from benchmarks.report import Table
from landform.testing.transformers import gpt2

CASES: dict[str, dict[str, Any]] = {
    "tiny": {"cells": (2,), "epsilons": (1e-2,), "width": 32, "steps": 60, "points": 1},
    "quick": {"cells": (4,), "epsilons": (1e-3,), "width": 32, "steps": 100, "points": 2},
    "full": {"cells": (8, 16, 32), "epsilons": (1e-4, 1e-6), "width": 64, "steps": 200, "points": 16},
}
LENGTH = 12


def trained(dtype: torch.dtype, width: int, steps: int) -> tuple[lf.Task, tuple[torch.Tensor, torch.Tensor]]:
    """Train a GPT-2 of four blocks on sequences of letters; return its task and other sequences."""
    import pydoc_data.topics

    text = " ".join(" ".join(topic.split()) for topic in pydoc_data.topics.topics.values()).lower()
    letters = torch.tensor([ord(c) - 96 if "a" <= c <= "z" else 0 for c in text[: 200 * LENGTH]]).reshape(-1, LENGTH)
    own, other = letters[:100], letters[100:]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = gpt2(width=width)[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(input_ids=own).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), own[:, 1:].flatten()).backward()
        optimizer.step()
    return lf.Task(model.to(dtype).eval(), "causal_lm", (own, own)), (other, other)


def language(cells: tuple[int, ...], epsilons: tuple[float, ...], width: int, steps: int, points: int) -> Table:
    """Certified against measured, single tokens, heights on other text against their prediction, parameters."""
    from landform.imprint.other_data import predicted

    rows = []
    for dtype in (torch.float32, torch.float64):
        task, other = trained(dtype, width, steps)
        before = sum(p.numel() for p in task.model.parameters())  # type: ignore[union-attr]
        for n in cells:
            for epsilon in epsilons:
                begin = time.perf_counter()
                made = lf.imprint(
                    lf.Pattern.from_formula("sphere", resolution=n), task, method="offset", epsilon=epsilon
                )
                seconds = time.perf_counter() - begin
                h = torch.rand(points, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
                h = h.to(dtype).double()
                found, proof = lf.account(made, points=h), made.certificate
                assert proof is not None
                assert made.task is not None
                elsewhere = made.task.replace(data=other)
                heights = torch.stack([elsewhere.evaluate(made.subspace.at(p)).double().reshape(()) for p in h])
                rows.append(
                    {
                        "dtype": str(dtype).removeprefix("torch."),
                        "n": n,
                        "epsilon": epsilon,
                        "certified": proof.bound,
                        "of that ψ": proof.curve,
                        "mean loss off by": float(found.difference.max()),
                        "a token off by": float(found.worst.max()),
                        "other text off its prediction by": float(
                            (heights - predicted(made, other, made.target(h))).abs().max()
                        ),
                        "logits at the minimum moved by": made.meta["outputs_moved"],
                        "parameters ×": made.parameters / before,
                        "seconds": seconds,
                    }
                )
    notes = (f"sphere, GPT-2 of 4 blocks × {width}, 1,100 letters; measured at {points} random points",)
    return Table("Theorem 2 in a language model", rows, notes)


def run(cells: tuple[int, ...], epsilons: tuple[float, ...], width: int, steps: int, points: int) -> list[Table]:
    """Run it."""
    return [language(cells, epsilons, width, steps, points)]
