"""`python -m batchcliff` is the command `batchcliff`."""

from batchcliff.cli import main

if __name__ == "__main__":
    main()
