"""LPC, the lesion proposal classifier: views, network, training, inference."""
