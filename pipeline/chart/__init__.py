"""Helm charts: from their source in the checkout to the packed chart, its OCI artifact and its HelmChart manifest."""
