"""Data sets: what a loss surface is the mean over.

`load_data` reads them from a name, a file, the user's own loader or Python objects, and returns a `Data`.
"""

from landform.data.data import IGNORE_INDEX, Data
from landform.data.files import TargetKind
from landform.data.hashing import hash_tensors
from landform.data.idx import read_idx
from landform.data.load import NAMES, load_data

__all__ = [
    # data sets
    "IGNORE_INDEX",
    "NAMES",
    "Data",
    "TargetKind",
    # reading
    "hash_tensors",
    "load_data",
    "read_idx",
]
