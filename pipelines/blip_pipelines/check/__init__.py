"""How well a round's scores tell right texts from wrong ones, measured on pictures with human captions."""
