"""`Trajectory`: the points that training passed, recorded in a loop or read from checkpoints on disk."""

import glob
import re
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from landform.calling import unwrap
from landform.checkpoints.checkpoint import Checkpoint, Point, checkpoint
from landform.checkpoints.files import write_weights
from landform.errors import ArchitectureError, InputError

_RECORDED = re.compile(r"\d{6,}\.safetensors")


class Trajectory:
    """The points that training passed.

    Recording takes two lines in any loop::

        trajectory = lf.Trajectory("trajectory")     # a folder; without one, in memory
        for step in …:
            …
            trajectory.record(model, step)

    and `landform.callbacks` has the same for Lightning and Hugging Face trainers. Parameters are recorded, buffers are
    not. A folder that holds points already is continued, so that training may be resumed.

    Args:
        folder: Where to write a safetensors file a point; made if it is not there. None keeps copies in memory.
        dtype: Store floating-point parameters in this dtype, e.g. bfloat16 to halve the space; None keeps theirs.

    Raises:
        InputError: The folder is a file, cannot be made, or holds something that is no recorded point.

    Cost:
        A copy of the parameters a point, in memory or on disk.

    Example:
        >>> model, trajectory = nn.Linear(2, 1), Trajectory()
        >>> for step in range(3):
        ...     trajectory.record(model, step)
        >>> len(trajectory), trajectory.steps, trajectory[-1].names
        (3, (0, 1, 2), ('weight', 'bias'))
    """

    def __init__(self, folder: str | PathLike[str] | None = None, *, dtype: torch.dtype | None = None) -> None:
        if dtype is not None and not dtype.is_floating_point:
            raise InputError(f"dtype is {dtype}; wanted a floating-point dtype")
        self._dtype = dtype
        self._points: list[Checkpoint] = []
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"trajectory folder {self.folder} cannot be made: {error.strerror}; choose another path"
                ) from error
            files = sorted(file for file in self.folder.iterdir() if not file.name.startswith("."))
            other = [file.name for file in files if not _RECORDED.fullmatch(file.name)]
            if other:
                raise InputError(
                    f"trajectory folder {self.folder} holds {other[0]}, which is no recorded point; record into a"
                    " folder of its own, or read checkpoints with Trajectory.from_files"
                )
            self._points = [checkpoint(file) for file in files]

    @classmethod
    def from_files(
        cls, files: str | PathLike[str] | Iterable[str | PathLike[str]], *, model: nn.Module | None = None
    ) -> "Trajectory":
        """Open checkpoints on disk, without reading them into memory.

        Args:
            files: A shell pattern (``"ckpt/*.pt"``), a folder of checkpoints, or paths in order. What a pattern or
                folder finds is sorted by the numbers in the names, so that step 10 comes after step 9. Formats as for
                `landform.checkpoints.checkpoint`.
            model: The model that they are of: only its parameters are taken, under its names.

        Returns:
            The trajectory. A point's step is what its file records (Lightning, `record`), else the last number in its
            name, else None.

        Raises:
            InputError: No files, a file that cannot be read, or one that does not fit the first (or ``model``).
        """
        found = _listed(files)
        if not found:
            raise InputError(f"no checkpoint matches {files!r}")
        trajectory = cls()
        for file in found:
            point = checkpoint(file, model=model)
            if point.step is None:
                digits = re.findall(r"\d+", file.stem)
                point.step = int(digits[-1]) if digits else None
            trajectory._append(point)
        return trajectory

    @classmethod
    def of(cls, points: Iterable[Point], *, model: nn.Module | None = None) -> "Trajectory":
        """Collect models, state dicts or files; none is copied.

        Args:
            points: The points, in order.
            model: The model that they shall fit, or None.

        Returns:
            The trajectory, without steps.

        Raises:
            InputError: No points, or points that do not fit each other.
        """
        trajectory = cls()
        for number, point in enumerate(points, start=1):
            label = f"point {number}" if not isinstance(point, str | PathLike) else None
            trajectory._append(checkpoint(point, model=model, label=label))
        if not trajectory._points:
            raise InputError("a trajectory of no points; wanted at least one")
        return trajectory

    def record(self, model: nn.Module | Mapping[str, Tensor], step: int | None = None) -> None:
        """Add the parameters as they are now.

        Args:
            model: The model, or its state dict; wrappers of ``torch.compile`` and DDP are taken off, and with several
                processes each records for itself, so let one do it. Of a sharded model (FSDP) no process has all;
                all of them gather its state dict, and one records that::

                    from torch.distributed.checkpoint import state_dict as sd

                    whole = sd.get_model_state_dict(model, options=sd.StateDictOptions(full_state_dict=True))
                    if torch.distributed.get_rank() == 0:
                        trajectory.record(whole, step)

            step: The step of training; the number of points so far by default.

        Raises:
            InputError: Parameters of other names or shapes than before, or a disk that is full or read-only.
            ArchitectureError: Parameters without values, or sharded ones.

        Cost:
            A copy of the parameters; on disk, written beside and renamed, so that no half point is left.
        """
        inner = model if isinstance(model, Mapping) else unwrap(model)
        if not isinstance(inner, nn.Module | Mapping):
            raise InputError(f"got {model!r}; wanted a torch.nn.Module, or its state dict, to record")
        found = _tensors(inner)
        sharded = next((name for name, value in found.items() if type(value).__name__ == "DTensor"), None)
        if sharded is not None:
            raise ArchitectureError(
                f"'{sharded}' is sharded, and one process cannot gather it alone; on all of them call torch.distributed"
                ".checkpoint.state_dict.get_model_state_dict with full_state_dict=True, and record what it returns"
            )
        state = checkpoint(inner).state()
        kept = {name: value.cpu().to(self._dtype or value.dtype) for name, value in state.items()}
        number = len(self._points)
        step = number if step is None else int(step)
        if self.folder is None:
            self._append(checkpoint(kept, label=f"point {number + 1}", step=step))
            return
        point = checkpoint(kept, label=f"point {number + 1}", step=step)
        self._compare(point)
        file = self.folder / f"{number:06d}.safetensors"
        try:
            write_weights(file, kept, {"step": str(step)})
        except OSError as error:
            raise InputError(
                f"trajectory point {file} cannot be written: {error}; the points before it are there"
            ) from error
        self._points.append(checkpoint(file))

    @property
    def steps(self) -> tuple[int | None, ...]:
        """The step of training of each point."""
        return tuple(point.step for point in self._points)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return self._points[0].names if self._points else ()

    def __len__(self) -> int:
        """Count the points."""
        return len(self._points)

    def __getitem__(self, number: int) -> Checkpoint:
        """Return one point; negative numbers count from the end."""
        try:
            return self._points[number]
        except IndexError:
            raise InputError(f"the trajectory has {len(self)} points, there is no number {number}") from None

    def __iter__(self) -> Iterator[Checkpoint]:
        """Iterate over the points."""
        return iter(self._points)

    def __repr__(self) -> str:
        """Say what it is in one line."""
        where = "in memory" if self.folder is None else f"in {self.folder}"
        return f"Trajectory({len(self)} points, {len(self.names)} parameters, {where})"

    def _append(self, point: Checkpoint) -> None:
        self._compare(point)
        self._points.append(point)

    def _compare(self, point: Checkpoint) -> None:
        """Refuse a point that does not fit the first."""
        if not self._points:
            return
        first = self._points[0]
        for name in dict.fromkeys((*first.names, *point.names)):
            if name not in first.names or name not in point.names:
                here, there = (first, point) if name in first.names else (point, first)
                raise InputError(
                    f"the parameter names differ first at '{name}', which {here.label} has and {there.label} has not"
                )
            if first.shape(name) != point.shape(name):
                raise InputError(
                    f"'{name}' has shape {list(first.shape(name))} in {first.label}, {list(point.shape(name))} in"
                    f" {point.label}"
                )


def _tensors(model: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return dict(model.named_parameters()) if isinstance(model, nn.Module) else model


def _listed(files: str | PathLike[str] | Iterable[str | PathLike[str]]) -> list[Path]:
    if not isinstance(files, str | PathLike):
        return [Path(file) for file in files]
    path = Path(files)
    if path.is_dir():
        found = [file for file in path.iterdir() if not file.name.startswith(".")]
    else:
        found = [path] if path.is_file() else [Path(file) for file in glob.glob(str(files))]  # noqa: PTH207  absolute patterns
    return sorted(found, key=lambda file: [(int(p), "") if p.isdigit() else (-1, p) for p in _pieces(file)])


def _pieces(file: Path) -> list[str]:
    return [piece for piece in re.split(r"(\d+)", str(file)) if piece]
