"""`python -m ibot_train` is the command `ibot`."""

from ._command import main

if __name__ == "__main__":
    main()
