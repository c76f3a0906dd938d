"""What a task finds out about itself by passing a few samples: heads, sizes, and what would not stay put."""

from typing import TYPE_CHECKING, Any, cast

from landform.calling import split_heads
from landform.errors import InputError
from landform.task.batch import Batch
from landform.task.caller import DEFAULT_BATCH, Caller
from landform.task.findings import Finding, probe
from landform.task.memory import in_halves

if TYPE_CHECKING:
    from landform.task.task import Task

MAX_NUMBERS = 1 << 24
"""Numbers that the outputs of one batch may hold (128 MB in float64); a language model's batches are smaller for it."""


class Probed(Caller):
    """A task that knows its model; see `Task`."""

    __slots__ = ()

    def heads(self) -> tuple[str, ...]:
        """Name the model's heads, found by a pass over one sample.

        Returns:
            ``("output",)`` for a single tensor (or the ``.logits`` of an object that has them); the keys of a mapping;
            the field names of a named tuple; ``("0", "1", …)`` for a tuple or list.

        Raises:
            InputError: The model and the data do not fit each other.
        """
        if self._heads is None:
            count = min(2, self.n)  # BatchNorm by batches needs two
            batch = self.batch(slice(0, count))
            heads, single = split_heads(self._peek(batch), count, self._who, self._output)
            self._heads = ("output",) if single else tuple(heads)
        return self._heads

    def batch_size(self) -> int:
        """Choose the samples of a forward pass: 1024, or fewer where the outputs of so many would be very large.

        Returns:
            A number of samples.
        """
        if self._step is not None:
            return DEFAULT_BATCH
        if self._size is None:
            batch = self.batch(slice(0, min(2, self.n)))
            heads = self.split_heads(self._peek(batch), batch)
            largest = max(output[0].numel() for output in heads.values())
            self._size = max(1, min(DEFAULT_BATCH, MAX_NUMBERS // max(largest, 1)))
        return self._size

    def _peek(self, batch: Batch) -> Any:
        """Run the model on a few samples; not enough memory for these is not enough for anything."""
        return in_halves(lambda part: self.run(None, part), batch, divisible=False)[0]

    @property
    def separable(self) -> bool:
        """Whether loss and step give one value a sample, whatever that value may depend on; found by a probe."""
        if self._separable is None:
            batch = self.batch(slice(0, min(2, self.n)))
            if self._step is not None:
                self._separable = all(value.ndim for value in self.stepped(None, batch).values())
            else:
                heads = self.split_heads(self._peek(batch), batch)
                self._separable = None not in [self._resolved.terms(o, batch.targets) for o in heads.values()]
        return self._separable

    @property
    def per_sample(self) -> bool:
        """Whether every quantity is a ratio of sums over samples, so that some of them estimate the whole.

        False for a loss or step that gives one number a batch, where samples are coupled by BatchNorm or otherwise, and
        where statistics are recalibrated.
        """
        return self.obstacle is None

    @property
    def obstacle(self) -> str | None:
        """Say why some samples do not estimate the whole (`per_sample` is False); None where they do."""
        if not self.separable:
            return f"loss {self._resolved.name} gives one number a batch"
        if not self.frozen:
            return f"batch_norm={self._settings.batch_norm!r} makes statistics of many samples part of each loss"
        coupled = [finding for finding in self.findings() if finding.name in ("batch_norm", "coupled")]
        return f"the loss of a sample depends on its batch (allow={coupled[0].name!r})" if coupled else None

    @property
    def writes_inputs(self) -> bool:
        """Whether the model changes its inputs in place; it then gets copies, and engines leave it whole."""
        if self._step is not None:
            return False  # engines leave steps whole anyway
        with self.mode():
            self._peek(self.batch(slice(0, min(2, self.n))))
            session = self._session
            assert session is not None
            return bool(session.writes)

    def findings(self) -> tuple[Finding, ...]:
        """Probe, once, for what would make the surface another one in every pass (`landform.task.findings.probe`)."""
        if self._findings is None:
            self._findings = probe(cast("Task", self))  # the one class that derives from this one
        return self._findings

    def check(self) -> None:
        """Refuse what `findings` found and ``allow=`` does not accept.

        Raises:
            InputError: Dropout in evaluation mode, another source of randomness, or samples coupled by their batch.

        Example:
            >>> import torch
            >>> noisy = lambda x: torch.nn.functional.dropout(x)
            >>> from landform.task import Task
            >>> Task(noisy, data=(torch.ones(9, 3), torch.zeros(9).long())).check()
            Traceback (most recent call last):
            ...
            landform.errors.InputError: model function: dropout(p=0.5) is active in evaluation mode, ...
        """
        for finding in self.findings():
            if finding.name not in self._settings.allow:
                raise InputError(f"{self._who}: {finding.text}")
