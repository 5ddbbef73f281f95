"""The soft committee machine under online SGD (Saad & Solla 1995)."""
