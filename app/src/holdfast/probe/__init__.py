"""The measuring client of drills, deploy tests and benchmarks: run, verify, report."""
