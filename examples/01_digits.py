"""Digits: the phases of a small CNN
=================================

Watch a small CNN go through the phases of training on scikit-learn's digits, with 20 % of its training labels flipped.

::

    python examples/01_digits.py         # to the end; says what stopping would have given
    python examples/01_digits.py --stop  # stops at phase three, with the weights of its onset
"""

# %%
# .. figure:: /phases.png
#    :alt: Losses, share and excess gap of the digits' run with its three phases
#
#    The whole run. :doc:`/results` say what it shows.

# sphinx_gallery_thumbnail_path = "phases.png"

import argparse

import lightning as L
from modules import Curve, DigitsClassifier, DigitsData

from lightning_interactions import ImagePatches, InteractionMonitor, Logging, PhaseEarlyStopping
from lightning_interactions.reporting import phase_figure


def report(curve: Curve, moment: str, epoch: int) -> None:
    loss, relative = curve.losses[epoch], curve.losses[epoch] / curve.losses[curve.best_epoch]
    print(
        f"{moment:<20} epoch {epoch:>2}: test loss {loss:.3f} ({relative:.2f} x best), accuracy {curve.accuracies[epoch]:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stop", action="store_true", help="stop when phase three is detected, with the weights of its onset")
    parser.add_argument("--quick", action="store_true", help="a run of seconds")
    parser.add_argument("--seed", type=int, default=1, help="seed of data and training (default: %(default)s)")
    parser.add_argument("--figure", help="also write the phase plot to this file")
    arguments = parser.parse_args()

    L.seed_everything(arguments.seed, verbose=False)
    data = DigitsData(seed=arguments.seed)
    model = DigitsClassifier()
    monitor = InteractionMonitor(ImagePatches(2, 2) if arguments.quick else None, logging=Logging(verbose=True))
    stopping = PhaseEarlyStopping(phase=3, restore_best=True, log_only=not arguments.stop)
    curve = Curve(*data.parts["test"].tensors)
    trainer = L.Trainer(
        max_epochs=4 if arguments.quick else 45,
        callbacks=[monitor, stopping, curve],
        enable_progress_bar=False,
        log_every_n_steps=1,
    )
    trainer.fit(model, datamodule=data)

    print(f"\n{monitor.phase}")
    if stopping.onset_epoch is None or stopping.detected_epoch is None:
        print("phase 3 did not begin")
    else:
        report(curve, "onset of phase three", stopping.onset_epoch)
        report(curve, "its detection", stopping.detected_epoch)
    report(curve, "best epoch", curve.best_epoch)
    report(curve, "end", len(curve.losses) - 1)
    print(f"\nplots: tensorboard --logdir {trainer.log_dir}")
    if arguments.figure:
        phase_figure(monitor.history).savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
