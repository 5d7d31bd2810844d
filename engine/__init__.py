"""artifact -> session -> batches -> outputs and sparsity counts; knows no gRPC."""
