"""What tests and benchmarks share: servers, files of other projects, small networks."""
