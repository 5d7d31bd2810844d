"""The gRPC services: a handler decodes, calls `Serving` and encodes."""
