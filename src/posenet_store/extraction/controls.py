"""Controls of an experiment: the same network untrained, the same network without padding, and the plain pixels."""

from dataclasses import replace

from posenet_store.backbones.load import check_backbone
from posenet_store.errors import UsageError
from posenet_store.specs import PIXELS, ZEROS, BackboneSpec


def list_networks(
    network: BackboneSpec, untrained: bool = True, unpadded: bool = True
) -> tuple[dict[str, BackboneSpec], tuple[str, ...]]:
    """Return `network` and its controls by their role, and notes on controls that are not possible for it.

    A control that does not differ from the network is left out. Nothing is erased in controls: an eraser is of one network.
    Raises UsageError if `network` itself can't be loaded.

    >>> list(list_networks(BackboneSpec("vgg16"))[0]), list(list_networks(BackboneSpec("densenet121", "random:1"))[0])
    (['network', 'untrained', 'unpadded', 'pixels'], ['network', 'pixels'])
    """
    check_backbone(network)
    networks = {"network": network}
    if network.name == PIXELS:
        return networks, ()
    notes = []
    if untrained and not network.weights.startswith("random:"):
        networks["untrained"] = replace(network, weights="random:0", erase="")
    if unpadded and network.padding == ZEROS:
        control = replace(network, padding="none", erase="")
        try:
            check_backbone(control)
            networks["unpadded"] = control
        except UsageError as error:
            notes.append(f"the control without padding is left out: {error}")
    return networks | {"pixels": BackboneSpec(PIXELS, device=network.device)}, tuple(notes)
