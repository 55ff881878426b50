"""Ends with 0 if the router beside it is ready to serve. For the image, which has no other client of HTTP."""
# ruff: noqa: INP001 - a program of one file

import os
import ssl
import sys
import urllib.request

TIMEOUT_S = 4


def main() -> int:
    """Ask, and return how to end; whatever is no success raises an OSError."""
    scheme = "https" if os.environ.get("BLINDPOST_TLS_CERT") else "http"
    url = f"{scheme}://127.0.0.1:{os.environ.get('BLINDPOST_PORT', '8000')}/health/ready"
    context = ssl._create_unverified_context()  # noqa: SLF001, S323 - to itself, for no secret; the name is another
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        direct.open(url, timeout=TIMEOUT_S).close()
    except OSError as error:
        sys.stderr.write(f"not ready: {type(error).__name__}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
