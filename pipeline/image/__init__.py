"""Container images: layers, configurations, manifests and indexes of the OCI image format, made without a daemon."""
