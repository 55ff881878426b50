"""What two clients and a router must agree on, byte for byte: pure functions, no I/O (spec/protocol.md)."""
