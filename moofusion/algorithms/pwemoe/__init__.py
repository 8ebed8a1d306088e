"""PWEMoE: Pareto set learning with weight-ensembling routers."""

from moofusion.algorithms.pwemoe.algorithm import PWEMoE
from moofusion.algorithms.pwemoe.router import ParetoRouter
from moofusion.algorithms.pwemoe.training import RouterTraining

__all__ = ["PWEMoE", "ParetoRouter", "RouterTraining"]
