"""The built-in world: drawn scenes, a noisy web about them, and a loopback web server that also fails."""
