"""Controls of an experiment: the same network untrained, the same network without zero padding, and the plain pixels."""

from dataclasses import replace

from posenet_store.backbones.load import check_backbone
from posenet_store.errors import UsageError
from posenet_store.specs import PIXELS, ZEROS, BackboneSpec


def list_networks(
    network: BackboneSpec, untrained: bool = True, unpadded: bool = True
) -> tuple[dict[str, BackboneSpec], tuple[str, ...]]:
    """Return `network` and its controls by their role, and notes on controls that are not possible for it.

    A control that does not differ from the network is left out. Where padding can't be removed it is circular instead: in
    such a network no position is special, and what is left comes from images. Nothing is erased in controls: an eraser is of
    one network. Raises UsageError if `network` itself can't be loaded.

    >>> list(list_networks(BackboneSpec("vgg16"))[0]), list(list_networks(BackboneSpec("densenet121", "random:1"))[0])
    (['network', 'untrained', 'unpadded', 'pixels'], ['network', 'unpadded', 'pixels'])
    """
    check_backbone(network)
    networks = {"network": network}
    if network.name == PIXELS:
        return networks, ()
    notes = []
    if untrained and not network.weights.startswith("random:"):
        networks["untrained"] = replace(network, weights="random:0", erase="")
    if unpadded and network.padding == ZEROS:
        control, note = _find_unpadded(replace(network, erase=""))
        notes += [note] if note else []
        networks |= {"unpadded": control} if control else {}
    return networks | {"pixels": BackboneSpec(PIXELS, device=network.device)}, tuple(notes)


def _find_unpadded(network: BackboneSpec) -> tuple[BackboneSpec | None, str]:
    """Return a network without padding, or with circular padding, None if neither is possible; and why it is not."""
    reasons = []
    for padding in ("none", "circular"):
        control = replace(network, padding=padding)
        try:
            check_backbone(control)
        except UsageError as error:
            reasons.append(str(error))
            continue
        return control, f"the control without zero padding has circular padding: {reasons[0]}" if reasons else ""
    return None, f"the control without zero padding is left out: {'; '.join(dict.fromkeys(reasons))}"
