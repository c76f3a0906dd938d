"""Hugging Face models, built from their configurations: the loss is the model's own, over all tokens of the set."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from torch import nn

from landform.errors import DataError, InputError
from landform.task import Task

transformers.logging.set_verbosity_error()
V, N, T = 20, 11, 7
GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(1, V, (N, T), generator=GENERATOR)
MASK = (torch.arange(T) < torch.randint(2, T + 1, (N, 1), generator=GENERATOR)).long()
LABELS = torch.where(MASK > 0, IDS, -100)
BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": V}


def build(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "gpt2":
            config = transformers.GPT2Config(
                n_layer=1, n_head=2, n_embd=8, vocab_size=V, n_positions=16, bos_token_id=0, eos_token_id=0
            )
            return transformers.GPT2LMHeadModel(config)
        if kind == "llama":
            config = transformers.LlamaConfig(
                vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
            )
            return transformers.LlamaForCausalLM(config)
        if kind == "t5":
            config = transformers.T5Config(vocab_size=V, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
            config.decoder_start_token_id = 0
            return transformers.T5ForConditionalGeneration(config)
        if kind == "vit":
            config = transformers.ViTConfig(
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
                image_size=8,
                patch_size=4,
                num_channels=1,
                num_labels=3,
            )
            return transformers.ViTForImageClassification(config)
        many = kind == "multi"
        config = transformers.BertConfig(
            **BERT, num_labels=3, problem_type="multi_label_classification" if many else None
        )
        names = {"masked": "BertForMaskedLM", "tokens": "BertForTokenClassification"}
        return getattr(transformers, names.get(kind, "BertForSequenceClassification"))(config)


CASES = {
    "gpt2": ({"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}, "causal_lm"),
    "llama": ({"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}, "causal_lm"),
    "masked": ({"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}, "token_cross_entropy"),
    "tokens": ({"input_ids": IDS, "attention_mask": MASK, "labels": LABELS.clamp(max=2)}, "token_cross_entropy"),
    "t5": ({"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}, "token_cross_entropy"),
    "class": ({"input_ids": IDS, "attention_mask": MASK, "label": IDS[:, 0] % 3}, "cross_entropy"),
    "multi": ({"input_ids": IDS, "attention_mask": MASK, "labels": (IDS[:, :3] > 9).float()}, "bce_with_logits"),
    "vit": ({"pixel_values": torch.randn(N, 1, 8, 8, generator=GENERATOR), "labels": IDS[:, 0] % 3}, "cross_entropy"),
}


def own(model, columns):
    """The model's own loss on the whole set at once."""
    columns = {"labels" if key == "label" else key: value for key, value in columns.items()}
    with torch.no_grad():
        return model.eval()(**columns).loss.item()


@pytest.mark.parametrize("kind", CASES)
def test_the_models_own_loss_is_recognised(kind):
    columns, name = CASES[kind]
    model = build(kind).train()
    task = Task(model, "model", columns)
    assert task.loss_form.name == name
    assert task.per_sample
    task.check()
    assert task.evaluate(batch_size=3).item() == pytest.approx(own(model, columns), rel=1e-5)
    moved = {key: value * 1.5 for key, value in model.named_parameters()}
    got = task.evaluate(moved, batch_size=4).item()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    assert got == pytest.approx(own(model, columns), rel=1e-5)
    half = task.replace(data=task.data.subset([0, 2, 4]))
    some = {key: value[[0, 2, 4]] for key, value in columns.items()}
    assert half.evaluate().item() == pytest.approx(own(model, some), rel=1e-5)


def test_the_mean_is_over_tokens_not_over_batches():
    model = build("gpt2")
    task = Task(model, "model", CASES["gpt2"][0], metrics=("accuracy", "top3"))
    logits = model.eval()(IDS, attention_mask=MASK).logits[:, :-1].double()
    targets = LABELS[:, 1:]
    wanted = F.cross_entropy(logits.transpose(1, 2), targets)
    kept = targets != -100
    num, den = task.sums(batch_size=2)
    assert den[0] == kept.sum()
    torch.testing.assert_close((num / den)[0], wanted.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close((num / den)[1], (logits.argmax(-1) == targets)[kept].double().mean())


def test_tokens_alone_are_enough_for_a_language_model():
    model = build("gpt2")
    task = Task(model, "model", IDS)
    assert task.evaluate().item() == pytest.approx(own(model, {"input_ids": IDS, "labels": IDS}), rel=1e-5)
    assert Task(model, "causal_lm", IDS).evaluate() == task.evaluate()
    with pytest.raises(InputError, match=r"for tokens, whose classes come last, use loss='token_cross_entropy'"):
        Task(model, data=IDS).evaluate()


def test_tied_embeddings_count_once():
    model = build("gpt2")
    task = Task(model, "causal_lm", IDS)
    assert "lm_head.weight" not in dict(model.named_parameters())
    weight = model.transformer.wte.weight.detach() * 2
    first = task.evaluate({"transformer.wte.weight": weight})
    assert torch.equal(first, task.evaluate({"lm_head.weight": weight}))
    assert first != task.evaluate()


def test_a_step_as_in_a_training_loop():
    columns = CASES["masked"][0]
    model = build("masked")
    task = Task(model, step=lambda model, batch: model(**batch).loss, data=columns)
    assert not task.per_sample
    assert task.evaluate().item() == pytest.approx(own(model, columns), rel=1e-5)


class Penalised(nn.Module):
    """Its loss has a part that no formula knows."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, features, labels=None):
        logits = self.layer(features)
        found = {"logits": logits}
        if labels is not None:
            found["loss"] = F.cross_entropy(logits, labels) + self.layer.weight.square().sum()
        return found


def test_a_loss_that_no_formula_gives_is_one_number_a_batch():
    model = Penalised()
    columns = {"features": torch.randn(N, 4, generator=GENERATOR), "labels": IDS[:, 0] % 3}
    task = Task(model, "model", columns)
    assert (task.loss, task.per_sample, task.quantities()) == ("model", False, ("loss",))
    assert task.evaluate().item() == pytest.approx(model(**columns)["loss"].item(), rel=1e-6)
    assert task.replace(name="other").loss == "model"
    with pytest.raises(InputError, match="metrics accuracy need outputs"):
        task.replace(metrics="accuracy")


def test_what_has_no_loss_of_its_own():
    with pytest.raises(DataError, match="loss='model' needs data"):
        Task(build("gpt2"), "model")
    with pytest.raises(InputError, match="Linear takes input: name a loss, or use step="):
        Task(nn.Linear(4, 3), "model", (torch.zeros(2, 4), torch.tensor([0, 1])))
