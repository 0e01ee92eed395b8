"""What a fine-tuning script needs besides the models."""
