"""`sgdphases compare`: command, figures and page."""
