"""Learning: backbones, the three-headed model, its input pipeline and its training."""
