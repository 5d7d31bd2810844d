"""gRPC services, batching, admission, health, metrics and configuration around the engine; it holds no maths."""
