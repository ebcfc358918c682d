"""The command line of an installed package: `python -m posenet_store --help`."""

from posenet_store.cli import main

main(prog_name="posenet-store")
