"""Steps on a Dask cluster: the client's side in the service, the worker's side, and the processes that steps run in."""
