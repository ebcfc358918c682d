"""The protocols that train heads: those of the report, the official code and the paper, and two others."""

from dataclasses import dataclass

OPTIMIZERS = ("adam", "sgd")
DROP = 0.1


@dataclass(frozen=True)
class GradientProtocol:
    """Training by gradient steps on the mean squared error; the defaults are the report's own (Section 2.4).

    The batch order is drawn from `order_seed`, the same for all heads; a cell's own seed draws its initial weights (Xavier
    uniform; biases as torch draws them, or 0 with `zero_bias`). The less obvious settings:

    `drop`        the epoch from which the learning rate is a tenth (0: none)
    `min_steps`   the least number of steps; epochs are added for it (and `drop` moves in proportion): the report's 15 epochs
                  over its 5,019 images are 18,825 steps, which smaller image sets need as well
    `layers`      convolutions of a head; those before the last have `hidden` channels (0: as many as the input) and a ReLU
    `sigmoid`     a batch normalisation behind every convolution, and a sigmoid at the end
    `size`        the side to which a map is upsampled before it is compared, in training and in scoring (0: not at all)
    `standardise` every input channel has mean 0 and deviation 1 over the training rows
    `normalise`   targets are stretched to their full range after resizing
    `input`       the input of heads where the sweep does not name one
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    optimizer: str = "adam"
    momentum: float = 0.0
    drop: int = 0
    epochs: int = 15
    batch_size: int = 4
    min_steps: int = 0
    order_seed: int = 0
    zero_bias: bool = False
    layers: int = 1
    hidden: int = 0
    sigmoid: bool = False
    size: int = 0
    standardise: bool = False
    normalise: bool = False
    input: str = "aligned"
    name: str = "report-2020"

    def count_epochs(self, images: int) -> int:
        """Return the number of epochs of training on `images` images.

        >>> GradientProtocol().count_epochs(480), GradientProtocol(min_steps=18_825).count_epochs(480)
        (15, 157)
        """
        return max(self.epochs, -(-self.min_steps // self.count_steps(images)))

    def count_steps(self, images: int) -> int:
        """Return the number of steps of an epoch over `images` images."""
        return -(-images // self.batch_size)

    def compute_rate_factor(self, epoch: int, epochs: int) -> float:
        """Return the factor of the learning rate in epoch `epoch` (from 0) of `epochs`.

        >>> [GradientProtocol(drop=10).compute_rate_factor(epoch, 15) for epoch in (9, 10)]
        [1.0, 0.1]
        """
        return DROP if self.drop and epoch * self.epochs >= self.drop * epochs else 1.0

    @property
    def is_linear(self) -> bool:
        """True if a head is a single convolution, so that second moments suffice to train it."""
        return self.layers == 1 and not self.sigmoid and not self.size


@dataclass(frozen=True)
class RidgeProtocol:
    """Exact least squares: the penalty is chosen on the last share `validation` of the rows, then all rows are fitted.

    With `folds` the penalty is chosen by cross-validation: the rows, which are in random order, make that many groups, and
    each is left out once. `lambdas` are relative: they are added to the correlation matrix of the standardised features.
    Heads with so many unknowns that moments do not fit in memory are solved by at most `iterations` steps of conjugate
    gradients. With `bands` so many random weights of the stages are tried too, each a penalty a stage (see `ridge`); the one of
    the least error is taken. `erase` are targets that are erased from the training features first (see `erasure`).
    """

    lambdas: tuple[float, ...] = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    validation: float = 0.15
    folds: int = 0
    iterations: int = 200
    bands: int = 0
    erase: tuple[str, ...] = ()
    normalise: bool = False
    input: str = "aligned"
    name: str = "ridge"

    def split_rows(self, rows: int) -> list[tuple[int, int]]:
        """Return the groups of `rows` training rows as (start, stop): those to fit and to validate on, or the folds.

        >>> RidgeProtocol().split_rows(100), RidgeProtocol(folds=3).split_rows(100)
        ([(0, 85), (85, 100)], [(0, 33), (33, 67), (67, 100)])
        """
        cuts = [round(fold * rows / self.folds) for fold in range(self.folds)] or [0, rows - round(self.validation * rows)]
        return list(zip(cuts, [*cuts[1:], rows], strict=True))

    def list_left_out_groups(self, groups: int) -> range:
        """Return the groups, of `groups`, that are left out in turn: each fold, else the last; none if there is only one."""
        return range(0 if self.folds else 1, groups)


Protocol = GradientProtocol | RidgeProtocol


def describe_stream(protocol: Protocol) -> tuple[object, ...]:
    """Return what heads of one stream of images must agree in: the order and size of batches, what is done to the inputs."""
    if not isinstance(protocol, GradientProtocol):
        return (protocol,)
    order = protocol.batch_size, protocol.epochs, protocol.min_steps, protocol.order_seed
    return (protocol.name, *order, protocol.standardise)


_OFFICIAL = GradientProtocol(
    name="official-2021",
    optimizer="sgd",
    learning_rate=0.1,
    momentum=0.9,
    drop=10,
    batch_size=32,
    zero_bias=True,
    sigmoid=True,
    size=224,
    normalise=True,
    input="corners",
)
"""The authors' code (islamamirul/position_information, train_network.py and models/decoder.py), released 21 months after
the paper. Its input is images without mean and deviation (`build-store --preprocess unit`); it has its own taps
(`--taps official`)."""

_PAPER = GradientProtocol(
    name="paper",
    optimizer="sgd",
    learning_rate=1e-3,
    momentum=0.9,
    batch_size=32,
    size=224,
    normalise=True,
    input="full",
)
"""As published (Sections 3.1 and 3.2): one linear convolution, SGD. The paper does not give learning rate and batch size, so
they are our choice; the loss's factor 1/2 is part of that rate."""

_STANDARD = GradientProtocol(
    name="standard",
    learning_rate=1e-2,
    weight_decay=0.0,
    drop=20,
    epochs=30,
    batch_size=32,
    min_steps=3000,
    zero_bias=True,
    standardise=True,
)
"""The report's linear head, trained to convergence on standardised inputs, for which gradient steps are well conditioned."""


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol for protocol in (GradientProtocol(), _OFFICIAL, _PAPER, _STANDARD, RidgeProtocol())
}
