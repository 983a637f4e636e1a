"""The service: one process for each user and host that answers for stores, steps and schedules.

It loads no user code. Kernels, commands and JupyterLab's server come through its socket; what it knows it has from the
stores, so that it can be killed at any moment and replaced by another one.
"""
