"""`python -m gim_bench`."""

from gim_bench.cli.main import main

if __name__ == "__main__":
    main()
