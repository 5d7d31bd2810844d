"""Telling one kind of failure from another by ONNX Runtime's words, since its Python face gives nothing else."""

__all__ = ["is_out_of_memory"]

_OUT_OF_MEMORY = (
    "out of memory",  # CUDA's own words, and our operator's
    "failed to allocate memory",  # the arena: "Failed to allocate memory for requested buffer of size …"
    "is smaller than requested bytes",  # the arena at its limit: "Available memory of … is smaller than …"
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudaerrormemoryallocation",
    "cuda_error_out_of_memory",
)


def is_out_of_memory(message: str) -> bool:
    """Return whether an error's message says that a device had no memory left."""
    text = message.lower()
    return any(words in text for words in _OUT_OF_MEMORY)
