"""Callbacks, with the trainers themselves: what is recorded is what the model was."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from landform import Task, Trajectory, pca_plane
from landform.errors import InputError

torch.set_num_threads(1)


def examples(n=32):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 3, generator=generator)
    return inputs, (inputs.sum(1) > 0).long()


@pytest.mark.filterwarnings("ignore")  # of the trainers
def test_a_lightning_trainer(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from landform.callbacks import LightningTrajectory

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
            self.seen = []

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def on_train_batch_end(self, *_):
            self.seen.append(self.net[0].weight.detach().clone())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Module()
        first = module.net[0].weight.detach().clone()
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*examples()), batch_size=8)
        trajectory = Trajectory(tmp_path / "run")
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[LightningTrajectory(trajectory, every=5, attribute="net")],
            default_root_dir=tmp_path,
        )
        trainer.fit(module, loader)
    assert trajectory.steps == (0, 5, 10, 12)
    assert torch.equal(trajectory[0].read("0.weight"), first)
    for point, step in zip(trajectory, (0, 5, 10, 12), strict=True):
        if step:
            assert torch.equal(point.read("0.weight"), module.seen[step - 1])
    plane = pca_plane(trajectory, model=Task(module.net, data=examples()))
    assert plane.meta["steps"] == [0, 5, 10, 12]


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, inputs, labels):
        logits = self.net(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trained_by_hugging_face(model, steps, folder, *callbacks, **options):
    from transformers import Trainer, TrainingArguments

    inputs, labels = examples()
    data = [{"inputs": row, "labels": label} for row, label in zip(inputs, labels, strict=True)]
    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True, "seed": 0}
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=8, save_steps=2, **quiet
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=list(callbacks))
    with torch.random.fork_rng(devices=[]):
        trainer.train(**options)


@pytest.mark.filterwarnings("ignore")  # of the trainer
def test_a_hugging_face_trainer(tmp_path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    from landform.callbacks import HuggingFaceTrajectory

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append(model.net.weight.detach().clone())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier()
    seen = [model.net.weight.detach().clone()]
    trajectory = Trajectory(tmp_path / "run")
    callback = HuggingFaceTrajectory(trajectory, every=2)
    trained_by_hugging_face(model, 5, tmp_path / "out", Watch(), callback)
    assert trajectory.steps == (0, 2, 4, 5)
    assert not torch.equal(seen[0], seen[5])
    for point, step in zip(trajectory, (0, 2, 4, 5), strict=True):
        assert torch.equal(point.read("net.weight"), seen[step])

    again = Trajectory(tmp_path / "run")  # as after a restart of the process: both go on from what is on disk
    resumed = HuggingFaceTrajectory(again, every=2)
    trained_by_hugging_face(Classifier(), 8, tmp_path / "out", resumed, resume_from_checkpoint=True)
    assert again.steps == (0, 2, 4, 5, 6, 8)
    assert torch.equal(again[3].read("net.weight"), seen[5])


@pytest.mark.parametrize("name", ["LightningTrajectory", "HuggingFaceTrajectory"])
def test_bad_input(name):
    import landform.callbacks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = getattr(landform.callbacks, name)
    with pytest.raises(InputError, match="every is 0; wanted a number of steps"):
        kind(Trajectory(), every=0)
    with pytest.raises(InputError, match=r"got a str; wanted a landform.Trajectory"):
        kind("folder")
    with pytest.raises(AttributeError, match="has no attribute 'KerasTrajectory'"):
        _ = landform.callbacks.KerasTrajectory


@pytest.mark.parametrize(
    ("modules", "name", "command"),
    [
        (("lightning", "pytorch_lightning"), "LightningTrajectory", "pip install lightning"),
        (("transformers",), "HuggingFaceTrajectory", "pip install transformers"),
    ],
)
def test_a_missing_library_is_named_and_no_other_is_needed(modules, name, command):
    code = (
        f"import sys\nfor module in {(*modules,)!r}: sys.modules[module] = None\n"
        "import landform.callbacks\n"
        f"try: landform.callbacks.{name}\n"
        "except landform.LandformError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingExtraError")
    assert command in done.stdout
