"""Arrays, .npy files and functions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landform.errors import InputError
from landform.pattern import Pattern

torch.set_num_threads(1)


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=2, max_side=4),
    )
)
@settings(max_examples=100, deadline=None)
def test_any_real_array_gives_a_pattern_or_says_why_not(array: np.ndarray) -> None:
    wide = array.astype(np.float64)
    if not np.isfinite(wide).all():
        with pytest.raises(InputError, match="not finite"):
            Pattern.from_array(array)
    elif wide.min() == wide.max() and not 0 <= wide.min() <= 1:
        with pytest.raises(InputError, match="constant"):
            Pattern.from_array(array)
    else:
        pattern = Pattern.from_array(array)
        lo, hi = pattern.source["range"]
        if wide.min() >= 0 and wide.max() <= 1:
            assert (lo, hi) == (0.0, 1.0)
            assert np.array_equal(pattern.values.numpy(), wide)
        else:
            assert (pattern.floor, pattern.ceiling, lo, hi) == (0.0, 1.0, wide.min(), wide.max())
            assert pattern.values.flatten()[int(wide.argmin())] == 0


@pytest.mark.parametrize("shift", [0.0, -7.0, 1e6])
def test_normalising_forgets_scale_and_shift(shift: float) -> None:
    base = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = Pattern.from_array(base, normalise=True).values
    assert torch.allclose(Pattern.from_array(3 * base + shift, normalise=True).values, plain, atol=1e-9)


def test_range_of_extreme_numbers() -> None:
    assert Pattern.from_array([-1.7e308, 0.0, 1.7e308]).values.tolist() == [0.0, 0.5, 1.0]
    assert Pattern.from_array([0.0, 5e-324], normalise=True).values.tolist() == [0.0, 1.0]


def test_the_array_is_copied() -> None:
    array = torch.tensor([0.0, 1.0], dtype=torch.float64)
    pattern = Pattern.from_array(array)
    array[0] = 9
    mirror = np.array([0.0, 1.0])
    other = Pattern.from_array(mirror)
    mirror[0] = 9
    assert pattern.values[0] == other.values[0] == 0


def test_kinds_of_arrays() -> None:
    wanted = torch.tensor([[0.0, 1.0], [0.5, 0.25]], dtype=torch.float64)
    for array in (wanted.tolist(), wanted.half(), wanted.bfloat16(), wanted.requires_grad_(), wanted.detach().T.T):
        pattern = Pattern.from_array(array)
        assert torch.equal(pattern.values, wanted)
        assert not pattern.values.requires_grad
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3) / 6)
    assert torch.equal(Pattern.from_array(fortran).values, torch.arange(6, dtype=torch.float64).reshape(2, 3) / 6)
    assert Pattern.from_array(fortran[::-1, ::-1].astype(">f4")).values[0, 0] == pytest.approx(5 / 6)


def test_channels_share_one_range() -> None:
    pattern = Pattern.from_array([[0.0, 2.0], [1.0, 4.0]], channels=True)
    assert (pattern.z, pattern.channels, pattern.resolution) == (1, 2, (1,))
    assert pattern.values.tolist() == [[0.0, 0.5], [0.25, 1.0]]
    assert pattern(torch.tensor([[0.5]], dtype=torch.float64)).tolist() == [[0.125, 0.75]]


@pytest.mark.parametrize(
    ("array", "options", "match"),
    [
        ([1j, 0], {}, "real numbers, got an array of dtype complex128"),
        (torch.zeros(2, dtype=torch.complex64), {}, "real numbers, got a tensor of dtype torch.complex64"),
        (["a", "b"], {}, "dtype <U1"),
        ([None, 1.0], {}, "dtype object"),
        ([[1.0], [1.0, 2.0]], {}, "rectangular"),
        (np.array(["2020-01-01"] * 2, dtype="datetime64[D]"), {}, "dtype datetime64"),
        (0.5, {}, r"shape \(\), 0 dims; wanted 1 to 4 dims"),
        (np.zeros([2] * 5), {}, "5 dims; wanted 1 to 4"),
        (np.zeros(3), {"channels": True}, "wanted 2 to 5 dims with channels=True"),
        (np.zeros([2] * 6), {"channels": True}, "wanted 2 to 5 dims"),
        (np.zeros((2, 65)), {"channels": True}, "1 to 64 channels"),
        ([], {}, "at least 1 cell"),
        (np.zeros((3, 1)), {}, "at least 1 cell"),
        (np.zeros((66, 2, 2)), {}, "z = 3 goes up to 64"),
        ([0.0, np.nan, np.inf, 1.0], {}, r"2 of 4 values are not finite, the first at index \(1,\) \(nan\)"),
        ([[0.0, 1.0], [-np.inf, 1.0]], {}, r"1 of 4 values .* index \(1, 0\) \(-inf\)"),
        ([5.0, 5.0], {}, "constant"),
        ([0.5, 0.5], {"normalise": True}, "constant"),
        ([0.0, 2.0], {"normalise": False}, r"values in \[0.0, 2.0\], outside \[0, 1\]"),
    ],
)
def test_unfit_arrays(array: object, options: dict[str, bool], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Pattern.from_array(array, **options)  # type: ignore[arg-type]


def test_npy_round_trip(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 4, 2))
    np.save(tmp_path / "x.npy", np.asfortranarray(values))
    pattern = Pattern.from_npy(tmp_path / "x.npy", channels=True)
    assert np.array_equal(pattern.values.numpy(), values)
    assert pattern.source == {"kind": "npy", "file": "x.npy", "normalised": False, "range": [0.0, 1.0]}
    assert pattern.channels == 2


class Bomb:
    """Unpickling this would write a file."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (Path("unpickled"),)


def test_npy_never_unpickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="pickled objects, which are never loaded"):
        Pattern.from_npy("x.npy")
    assert not Path("unpickled").exists()


def header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no .npy file of real numbers: found an empty file"),
        (b"PK\x03\x04rest", "found a zip archive"),
        (b"\x80\x04\x95pickle", "perhaps a Python pickle"),
        (b"\x93NUMPY\x09\x00", "no .npy file"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr'", "no .npy file"),
        (header("(65, 65)"), "truncated: its header promises 33800 bytes of data, found 0"),
        (header("(4, 4)") + b"\0" * 100, "promises 128 bytes of data, found 100"),
        (header("(100000, 100000)"), "z = 2 goes up to 1024"),
        (header("(2, 2, 2, 2, 2)"), "5 dims; wanted 1 to 4"),
        (header("()") + b"\0" * 8, "0 dims"),
        (header("(0,)"), "at least 1 cell"),
        (header("(-2, 3)"), "at least 1 cell|no .npy file"),
        (header("(9,)", "<c16") + b"\0" * 144, "dtype complex128"),
        (header("(9,)", "<U3") + b"\0" * 144, "dtype <U3"),
        (header("(9,)", "|O"), "pickled objects"),
    ],
)
def test_unfit_npy(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        Pattern.from_npy(path)


def test_npy_with_too_many_channels_is_refused_before_loading(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(header("(1000, 1000, 1000000)"))
    with pytest.raises(InputError, match="at most 64 channels"):
        Pattern.from_npy(tmp_path / "x.npy", channels=True)


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_after_the_magic(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("npy") / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(tail).to_bytes(2, "little") + tail)
    with pytest.raises(InputError, match=r"x\.npy"):
        Pattern.from_npy(path)


def test_npy_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Pattern.from_npy(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h[:, 0] * h[:, 1],
        lambda h: np.prod(h, axis=1),
        lambda h: np.multiply.reduce(np.asarray(h), axis=1),
        lambda h: h.astype(np.float32)[:, 0] * h[:, 1],  # an AttributeError for a tensor
        lambda h: [float(a * b) for a, b in h],
    ],
)
def test_torch_and_numpy_functions(function: object) -> None:
    pattern = Pattern.from_callable(function, resolution=(2, 4), name="product")  # type: ignore[arg-type]
    wanted = torch.outer(torch.linspace(0, 1, 3), torch.linspace(0, 1, 5)).double()
    assert torch.allclose(pattern.values, wanted)
    assert pattern.source == {"kind": "callable", "function": "product", "range": [0.0, 1.0]}


def test_functions_are_normalised_with_their_original() -> None:
    pattern = Pattern.from_callable(lambda h: 10 * h[:, 0] - 4, resolution=2, z=1)
    assert pattern.source["range"] == [-4.0, 6.0]
    assert pattern.original(torch.tensor([[0.3]], dtype=torch.float64)).tolist() == pytest.approx([0.3])
    half = Pattern.from_callable(lambda h: h[:, 0] / 2, resolution=2, z=1)
    assert half.ceiling == 0.5
    assert Pattern.from_callable(lambda h: h[:, 0] / 2, resolution=2, z=1, normalise=True).ceiling == 1


def test_functions_cannot_spoil_the_nodes() -> None:
    def greedy(h: torch.Tensor) -> torch.Tensor:
        return h.mul_(0.5)[:, 0]

    pattern = Pattern.from_callable(greedy, resolution=2, z=1)
    assert pattern.values.tolist() == [0.0, 0.25, 0.5]
    h = torch.ones(1, 1, dtype=torch.float64)
    assert pattern.original(h).tolist() == [0.5]
    assert h.tolist() == [[1.0]]


def test_unfit_functions() -> None:
    with pytest.raises(InputError, match=r"returned shape \(25, 2\) for 25 points; wanted \(25,\)"):
        Pattern.from_callable(lambda h: h, resolution=4)
    with pytest.raises(
        InputError, match=r"returned shape \(25,\) for 25 points; wanted \(25, 3\): one value per channel"
    ):
        Pattern.from_callable(lambda h: h[:, 0], resolution=4, channels=3)
    with pytest.raises(InputError, match=r"values of log: 1 of 3 .* first at index \(0,\) \(-inf\)"):
        Pattern.from_callable(lambda h: h[:, 0].log(), resolution=2, z=1, name="log")
    with pytest.raises(InputError, match="real numbers, got an array of dtype object"):
        Pattern.from_callable(lambda h: None, resolution=2)
    with pytest.raises(InputError, match="wanted a function of h, got int"):
        Pattern.from_callable(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="function three is constant"):
        Pattern.from_callable(lambda h: 0 * h[:, 0] + 3, name="three")
    with pytest.raises(InputError, match="outside"):
        Pattern.from_callable(lambda h: 3 * h[:, 0], normalise=False)
    with pytest.raises(ZeroDivisionError, match="division by zero"):  # the user's own error comes through
        Pattern.from_callable(lambda h: 1 / 0)
