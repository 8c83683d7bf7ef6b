"""What others' tools need to see runs: nothing here can do what signals and `Runs` cannot."""
