"""How does an image become a row? Reading, decoding, the network, encoding and committing."""
