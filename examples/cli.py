"""Lightning's own command line, with the monitor and its settings from a file.

python examples/cli.py fit --config configs/image.yaml
python examples/cli.py fit --config configs/image.yaml --trainer.max_epochs 5 --print_config
"""

from lightning.pytorch.cli import ArgsType, LightningCLI


def main(args: ArgsType = None) -> LightningCLI:
    return LightningCLI(args=args)


if __name__ == "__main__":
    main()
