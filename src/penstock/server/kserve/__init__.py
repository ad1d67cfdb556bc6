"""The KServe v2 inference protocol with Triton's extensions, over HTTP and gRPC."""
