"""A run whose module, data, Trainer and monitor come from a file of Hydra.

python examples/hydra_cli.py
python examples/hydra_cli.py trainer.max_epochs=5 trainer.callbacks.monitor.probes.training=16
"""

import hydra
import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig


def run(config: DictConfig) -> L.Trainer:
    L.seed_everything(config.seed)
    callbacks = [instantiate(one) for one in config.trainer.callbacks.values()]
    trainer = instantiate(config.trainer, callbacks=None)
    trainer.callbacks += callbacks
    trainer.fit(instantiate(config.model), datamodule=instantiate(config.data))
    return trainer


if __name__ == "__main__":
    hydra.main(version_base=None, config_path="../configs/hydra", config_name="image")(run)()
