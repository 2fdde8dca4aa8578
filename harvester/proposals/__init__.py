"""LPG, the lesion proposal generator: network, targets, losses, decoding, training, inference."""
