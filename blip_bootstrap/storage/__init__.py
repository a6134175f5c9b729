"""What lies on disk: tables, manifests, names. It knows no step."""
