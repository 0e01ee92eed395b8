"""Between a padded batch and its real tokens laid end to end."""
