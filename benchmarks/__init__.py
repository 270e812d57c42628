"""Speed, measured as ratios within one run: `make bench`. See benchmarks/README.md."""
