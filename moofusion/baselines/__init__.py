"""What merging is compared with: training the whole network, one checkpoint per preference."""

from moofusion.baselines.network import Ray, TrainedRays, train_rays

__all__ = ["Ray", "TrainedRays", "train_rays"]
