"""Small transformers of the usual families, with data that fit them, for tests of tools that must run on any network.

Those of Hugging Face need ``transformers``; they are built from configurations, nothing is downloaded.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

TOKENS = 40
"""Size of the vocabulary."""

Data = tuple[Tensor, Tensor]


def token_data() -> Data:
    """Return 30 sequences of 8 tokens, and the tokens that follow each."""
    ids = torch.randint(0, TOKENS, (30, 9), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1], ids[:, 1:]


def _ready(model: nn.Module) -> nn.Module:
    return model.train(False)


def gpt2(*, tied: bool = True, width: int = 96) -> tuple[nn.Module, Data]:
    """Build a GPT-2 of four blocks: LayerNorm, GELU, a head that may be tied to the embedding."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=4,
        n_embd=width,
        n_head=2,
        vocab_size=TOKENS,
        n_positions=16,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=1,
    )
    return _ready(GPT2LMHeadModel(config)), token_data()


def llama(*, tied: bool = False) -> tuple[nn.Module, Data]:
    """Build a Llama of four blocks: RMSNorm, gated SiLU, no biases anywhere."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=TOKENS,
        tie_word_embeddings=tied,
    )
    return _ready(LlamaForCausalLM(config)), token_data()


def bert(*, masked: bool = True) -> tuple[nn.Module, Data]:
    """Build a BERT of four blocks, normalised after each addition: a masked language model, or a classifier."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

    config = BertConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        vocab_size=TOKENS,
        max_position_embeddings=16,
    )
    config.num_labels = 5
    inputs, following = token_data()
    if masked:
        return _ready(BertForMaskedLM(config)), (inputs, following)
    return _ready(BertForSequenceClassification(config)), (inputs, torch.arange(len(inputs)) % 5)


def vit() -> tuple[nn.Module, Data]:
    """Build a ViT of four blocks, which reads images and answers at its class token."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        image_size=16,
        patch_size=8,
    )
    config.num_labels = 10
    images = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return _ready(ViTForImageClassification(config)), (images, torch.arange(60) % 10)


def convnext() -> tuple[nn.Module, Data]:
    """Build a ConvNeXt of two stages: depthwise convolutions, LayerNorm over channels, scales, one change of width."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[32, 96], depths=[1, 4], num_stages=2, patch_size=2, image_size=16)
    config.num_labels = 10
    images = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return _ready(ConvNextForImageClassification(config)), (images, torch.arange(60) % 10)


class Encoder(nn.Module):
    """A transformer of torch's own layers over continuous inputs, averaged over positions."""

    def __init__(self, activation: str = "gelu", *, norm_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(96, 4, 256, 0.1, activation, batch_first=True, norm_first=norm_first)
        last = nn.LayerNorm(96) if norm_first else None
        self.embed = nn.Linear(8, 96) if norm_first else nn.Sequential(nn.Linear(8, 96), nn.LayerNorm(96))
        self.encoder = nn.TransformerEncoder(layer, 4, norm=last, enable_nested_tensor=False)
        self.out = nn.Linear(96, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return five logits a sample."""
        out: Tensor = self.out(self.encoder(self.embed(x)).mean(1))
        return out


def encoder(activation: str = "gelu", *, norm_first: bool = True) -> tuple[nn.Module, Data]:
    """Build an `Encoder` of four layers."""
    inputs = torch.randn(30, 7, 8, generator=torch.Generator().manual_seed(0))
    return _ready(Encoder(activation, norm_first=norm_first)), (inputs, torch.arange(30) % 5)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Data]]] = {
    "gpt2": gpt2,
    "gpt2, untied": lambda: gpt2(tied=False),
    "llama": llama,
    "llama, tied": lambda: llama(tied=True),
    "vit": vit,
    "convnext": convnext,
    "encoder": encoder,
    "encoder, relu": lambda: encoder("relu"),
    "bert, masked": bert,
    "bert, classifier": lambda: bert(masked=False),
    "encoder, norm last": lambda: encoder(norm_first=False),
}
"""All of them by name; each call builds a new network with random weights and its data."""
