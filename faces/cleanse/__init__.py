"""`sgdphases cleanse`: command, figures and page."""
