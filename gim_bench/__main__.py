"""`python -m gim_bench`, and the command `gim-bench`."""

import sys

from gim_bench.system.interrupts import INTERRUPTED


def main() -> None:
    """Run the command line, which Ctrl-C ends in one line while its modules are imported, too."""
    try:
        from gim_bench.cli.main import main as command
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything was done\n")
        sys.exit(INTERRUPTED)
    command()


if __name__ == "__main__":
    main()
