"""A worker of its own process: see `worker.py`."""

from blindpost.workers.worker import main

main()
