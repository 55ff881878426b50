"""Which addresses stay on this machine: everything sent to any other can be read on the way."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own. A name that is not known for one is not."""
    if host == "localhost":
        return True
    try:
        # Parsed, not compared by its beginning: 127.example.org is a name that may lead anywhere.
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_unspecified(host: str) -> bool:
    """Tell whether an address means all addresses of this machine: good to listen on, and nothing to type."""
    try:
        return not host or ip_address(host).is_unspecified
    except ValueError:
        return False
