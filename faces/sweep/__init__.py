"""`sgdphases sweep`: figures and page."""
