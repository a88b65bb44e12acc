"""Convolutional-network techniques, one module each: `from cnn_techniques.attention import SqueezeExcitation`."""
