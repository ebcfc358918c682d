"""The command line from a checkout: `python cli.py --help`. An installed package has it as `posenet-store`."""

from posenet_store.cli import main

if __name__ == "__main__":
    main(prog_name="cli.py")
