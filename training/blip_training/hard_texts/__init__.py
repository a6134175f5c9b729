"""Wrong texts that a filter confuses with right ones, and is fine-tuned on."""
