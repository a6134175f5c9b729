"""Experiments as data: arms by seeds over one world, their figures with intervals."""
