"""Techniques at work: data at hand, one training loop, results worth printing."""
