"""What ends a measurement."""

from blindpost.errors import BlindpostError


class MeasurementError(BlindpostError):
    """The router did not do what is measured; the message is one line."""
