"""Measuring speed on the present machine: the operators by themselves, and a whole artifact."""
