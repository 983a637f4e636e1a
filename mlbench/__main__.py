"""`python -m mlbench`: the command line, where its script is not on the path."""

from mlbench.entrypoints.cli import main

if __name__ == "__main__":
    main()
