"""`python -m cnn_lab` is `cnn-lab`."""

from .cli import main

if __name__ == "__main__":
    main()
