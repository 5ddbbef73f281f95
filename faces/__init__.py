"""What a user sees, beside cli.py and figures.py: the longer commands, the figures and pages of each kind."""
