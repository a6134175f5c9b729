"""The files of a run: tables, manifests and their names. Nothing here knows a step."""
