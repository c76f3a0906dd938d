"""Losses as ratios of sums, so that the loss over a data set is exact whatever the batches.

A mean of batch means is not the mean over the data set when batches differ in size, in class weights or in the number
of ignored labels. Each sample therefore gives a numerator and a denominator, in float64, and the data-set loss is
Σ w_i num_i / Σ w_i den_i.
"""

from landform.losses.formulas import Terms, double
from landform.losses.loss import Loss, LossSum
from landform.losses.resolve import LOSS_NAMES, LossLike, resolve_loss

__all__ = ["LOSS_NAMES", "Loss", "LossLike", "LossSum", "Terms", "double", "resolve_loss"]
