"""Lemma 1 made computable: the loss as a function of one scalar signal, its inverse, and the spline that applies it.

`respond` turns a loss and a data set's targets into a response ρ(s) = σ(p0 + s·v); `fit_spline` turns ρ^{-1} into one
hidden layer with a proved gap; `transfer` predicts the surface on another data set.
"""

from landform.response.base import AbstractResponse
from landform.response.bce_with_logits import BinaryCrossEntropy
from landform.response.cross_entropy import CrossEntropy
from landform.response.factory import LOSSES, respond, respond_like, response_from_state
from landform.response.gap import chord_gap, direct_gap
from landform.response.gaussian_nll import GaussianNLL
from landform.response.generic import CallableResponse
from landform.response.mse import MeanSquaredError
from landform.response.multi_margin import MultiMargin
from landform.response.poisson_nll import PoissonNLL
from landform.response.robust import Robust
from landform.response.spline import Spline, fit_spline
from landform.response.transfer import Transfer, transfer

__all__ = [  # noqa: RUF022 - grouped: making one, families, ψ, transfer
    "LOSSES",
    "respond",
    "respond_like",
    "response_from_state",
    "AbstractResponse",
    "BinaryCrossEntropy",
    "CallableResponse",
    "CrossEntropy",
    "GaussianNLL",
    "MeanSquaredError",
    "MultiMargin",
    "PoissonNLL",
    "Robust",
    "Spline",
    "chord_gap",
    "direct_gap",
    "fit_spline",
    "Transfer",
    "transfer",
]
