"""Weights from files that anybody may have written, into a model that knows nothing of them."""

import copy
import warnings

import pytest
import safetensors.torch
import torch
from torch import nn

import landform as lf
from landform.errors import ArchitectureError, InputError


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def trained(seed=1):
    model = net(seed)
    model(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))  # statistics of its own
    return model


WRITERS = {
    "state dict": lambda model, path: torch.save(model.state_dict(), path),
    "safetensors": lambda model, path: safetensors.torch.save_file(model.state_dict(), path),
    "under a key": lambda model, path: torch.save({"epoch": 3, "model_state_dict": model.state_dict()}, path),
    "compiled": lambda model, path: torch.save(torch.compile(model, backend="eager").state_dict(), path),
    "parallel": lambda model, path: torch.save(nn.DataParallel(model).state_dict(), path),
    "both": lambda model, path: torch.save(
        {f"module._orig_mod.{name}": value for name, value in model.state_dict().items()}, path
    ),
    "fsdp": lambda model, path: torch.save(
        {f"_fsdp_wrapped_module.{name}": value for name, value in model.state_dict().items()}, path
    ),
    "part of more": lambda model, path: torch.save(
        nn.ModuleDict({"net": model, "head": nn.Linear(2, 2)}).state_dict(), path
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("wrap", [False, True])
def test_files_of_all_kinds(tmp_path, writer, wrap):
    wanted, model = trained(), net()
    WRITERS[writer](wanted, tmp_path / "weights")
    target = torch.compile(model, backend="eager") if wrap else model
    assert lf.load_weights(target, tmp_path / "weights") is target
    assert same(model, wanted)


def test_a_lightning_checkpoint(tmp_path):
    import lightning

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = net()
            self.loss = nn.CrossEntropyLoss(torch.ones(2))

        def training_step(self, batch, _index):
            x, y = batch
            return self.loss(self.model(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    x, y = torch.randn(8, 4), torch.randint(2, (8,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    lit = Lit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about workers and the like
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(lit, loader)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not same(lit.model, net())
    assert same(lf.load_weights(net(), tmp_path / "last.ckpt"), lit.model)
    task = lf.Task(net(), data=(x, y))
    moved = lf.load_weights(copy.deepcopy(task.model), tmp_path / "last.ckpt")
    assert torch.equal(task.evaluate(moved.state_dict()), lf.Task(lit.model, data=(x, y)).evaluate())


def test_tied_weights_may_be_missing_and_dtypes_are_converted():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

    model = Tied()
    lf.load_weights(model, {"embed.weight": torch.full((5, 3), 2.0, dtype=torch.bfloat16)})
    assert model.out.weight is model.embed.weight
    assert model.out.weight.dtype == torch.float32
    assert bool((model.out.weight == 2).all())


def test_a_prefix_may_be_named():
    a, b = trained(1), trained(2)
    both = {f"a.{k}": v for k, v in a.state_dict().items()} | {f"b.{k}": v for k, v in b.state_dict().items()}
    assert same(lf.load_weights(net(), both, prefix="b."), b)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda s: s.pop("2.bias"), ArchitectureError, "the state dict holds no '2.bias', which Sequential has"),
        (lambda s: s.update(extra=torch.zeros(1)), ArchitectureError, "holds 'extra', which Sequential has not"),
        (lambda s: s.update({"0.weight": torch.zeros(3, 5)}), ArchitectureError, r"shape \[3, 5\] in .*, \[3, 4\] in"),
        (lambda s: s.update(epoch=3), InputError, "has a int under 'epoch'"),
        (lambda s: s.clear(), ArchitectureError, "no '0.weight', '0.bias', '1.weight' and 6 more"),
    ],
)
def test_what_does_not_fit_leaves_the_model_alone(change, error, match):
    model, state = net(), dict(trained().state_dict())
    change(state)
    with pytest.raises(error, match=match):
        lf.load_weights(model, state)
    assert same(model, net())


def test_no_code_is_run(tmp_path):
    torch.save(net(), tmp_path / "whole.pt")
    with pytest.raises(InputError, match="landform runs no code from files"):
        lf.load_weights(net(), tmp_path / "whole.pt")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        lf.load_weights(net(), tmp_path / "absent.pt")
