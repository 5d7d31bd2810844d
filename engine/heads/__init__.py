"""Heads: from a model's outputs to answers in words. One file a head, a pure function of arrays; `reader` picks."""
