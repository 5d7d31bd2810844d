"""Generated from `proto/` by `python proto/generate.py`; change the sources there, never these files."""
