"""`sgdphases run`: figures and page."""
