"""What runs in a Dask worker: it supervises the processes of steps, and loads nothing of a user's."""
