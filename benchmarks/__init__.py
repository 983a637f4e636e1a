"""The headline figures, each beside its peer, measured in one run on one machine.

`python -m benchmarks [NAME…] [--quick]` prints JSON lines with the keys `bench`, `subject`, `metric`, `value` and
`unit`. A ratio that has a goal is a line of its own, with subject `ratio` and the key `goal`: the value should not be
above it. `--table` shows the same to people. Wall times depend on the machine and on what else it does; ratios of
things that were measured alternately hold.
"""
