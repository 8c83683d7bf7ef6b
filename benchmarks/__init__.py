"""What a step costs, measured next to PING in the same run: `python -m benchmarks`."""
