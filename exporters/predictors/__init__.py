"""Low-rank predictors of which neurons fire: fitted in closed form, tuned for recall, measured on held-out rows."""

from lazyneuron.exporters.predictors.predictor import Measures, Predictor
from lazyneuron.exporters.predictors.training import train_predictors

__all__ = ["Measures", "Predictor", "train_predictors"]
