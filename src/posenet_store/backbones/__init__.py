"""Which frozen network? Architectures, weights, taps, padding surgery and inference."""
