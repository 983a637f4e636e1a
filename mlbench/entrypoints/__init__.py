"""The doors: each only translates what comes in and goes out."""
