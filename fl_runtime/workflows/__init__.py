"""Server-side algorithms, one a file. Each is a plain function over `fl_runtime.federation.Federation`."""
