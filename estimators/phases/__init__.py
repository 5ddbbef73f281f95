"""The phases of a trajectory, and what several runs have in common."""
