"""Shared by all tests."""

import os

import hypothesis

# A failing example is printed with the seed that gives it again; a slow machine is no failure.
hypothesis.settings.register_profile("lazyneuron", deadline=None, print_blob=True)
hypothesis.settings.load_profile("lazyneuron")

# Nothing may come from a model hub in a test.
os.environ["HF_HUB_OFFLINE"] = "1"
