"""`python -m lazyneuron` is the command `lazyneuron`."""

from lazyneuron.cli import main

if __name__ == "__main__":
    main()
