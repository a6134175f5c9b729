"""The demo: two rounds of CapFilt on the built-in world."""
