"""Benchmarks: run by hand, compared as ratios within one run, because machines are shared and noisy."""
