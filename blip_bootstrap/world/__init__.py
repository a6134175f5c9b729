"""The built-in world: drawn scenes, texts about them, which of these are true, and a web server."""
