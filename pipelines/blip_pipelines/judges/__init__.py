"""Judges beside the filter: what scores a text beside its picture, built in or brought by somebody's package."""
