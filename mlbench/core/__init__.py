"""The words of mlbench: ids, records, messages, errors and ports. Standard library only."""
