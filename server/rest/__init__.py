"""Inference over HTTP: the Open Inference Protocol's REST face, and a short one for text."""
