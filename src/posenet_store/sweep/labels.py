"""What people call a training store's network and images, and the digests by which equal names are told apart."""

from dataclasses import dataclass

from posenet_store.files import canonical_json, sha256
from posenet_store.specs import NO_WEIGHTS, TRAINED, StoreSpec

DIGITS = 8
"""Hexadecimal digits of a digest that tell equal names apart."""


def name_apart(name: str, digest: str) -> str:
    """Return a name that is also another thing's, with the first digits of its own digest.

    >>> name_apart("myset", "4417aab3deadbeef")
    'myset-4417aab3'
    """
    return f"{name}-{digest[:DIGITS]}"


@dataclass(frozen=True)
class Labels:
    """Names of the training store's network and images, and the kind of network (see `StoreSpec`).

    Two things can have one name: `network_sha256` covers all that decides the network's features but its padding,
    `images_sha256` the images.
    """

    network: str
    backbone: str
    images: str
    weights_kind: str
    network_padding: str
    network_sha256: str
    images_sha256: str

    @classmethod
    def of(cls, spec: StoreSpec) -> "Labels":
        """Return the labels of a store."""
        return cls(
            network=spec.network,
            backbone=spec.backbone,
            images=spec.images,
            weights_kind=spec.weights_kind,
            network_padding=spec.padding,
            network_sha256=_digest_network(spec),
            images_sha256=spec.images_sha256,
        )

    @property
    def trained(self) -> bool:
        """Whether the network was trained; plain pixels and random weights are the baselines."""
        return self.weights_kind == TRAINED

    @property
    def pixels(self) -> bool:
        """Whether there is no network: heads read the preprocessed image."""
        return self.weights_kind == NO_WEIGHTS

    @property
    def unpadded_network(self) -> str:
        """The network's name without its padding, the same for all paddings of one network."""
        return self.network.removesuffix(f"-padding-{self.network_padding}")


def _digest_network(spec: StoreSpec) -> str:
    """Return a digest of all that makes a network but its padding, which also changes the sizes of taps."""
    modules = [tap.module for tap in spec.taps]
    return sha256(
        canonical_json([spec.backbone, spec.weights_sha256, spec.tap_set, modules, spec.preprocess.to_dict(), spec.compute])
    )
