"""What the page shows of each section; changing it changes no number, and nothing is measured again for it."""
