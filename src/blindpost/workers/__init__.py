"""Several processes of the router on one address: a supervisor, and the workers that it starts."""

from blindpost.workers.supervisor import serving

__all__ = ["serving"]
